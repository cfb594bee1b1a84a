"""The Numba kernels. They read vectors by address, straight from mapped pages, and never check an address."""
