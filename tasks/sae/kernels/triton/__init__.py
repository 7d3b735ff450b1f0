"""A backend of kernels for GPUs; only ``tasks.sae.kernels.dispatch`` imports it, and only where triton can be imported."""

from tasks.sae.kernels.triton.backend import TritonBackend

BACKEND = TritonBackend()
