"""The CUDA twins of the CPU kernels. Importing them asks no driver for anything; `card.find` does."""
