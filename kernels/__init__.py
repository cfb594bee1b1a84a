"""Distances and selections: NumPy and Numba only, no input or output, no state."""
