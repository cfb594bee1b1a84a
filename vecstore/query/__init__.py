"""Questions: where-expressions to masks, and the exact scan."""
