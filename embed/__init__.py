"""Images and texts to vectors; uses vecstore only through its public names."""
