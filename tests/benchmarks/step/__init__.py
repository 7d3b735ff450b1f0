"""Milliseconds and memory of a training step, beside the encoder's product and other libraries."""
