"""The place of the CUDA twins; none is here yet, so every device is the CPU."""
