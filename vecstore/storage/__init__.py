"""The file: the only code that imports lmdb."""
