"""The same on 8, 64 and 512 GPUs, worked out from constants; makes SCALING.md."""
