"""Tokens per second of a harvest, beside the bare forward pass and SAELens; its memory; its bookkeeping."""
