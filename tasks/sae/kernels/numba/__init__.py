"""A backend of kernels for CPUs; only ``tasks.sae.kernels.dispatch`` imports it, and only where numba can be imported."""

from tasks.sae.kernels.numba.backend import NumbaBackend

BACKEND = NumbaBackend()
