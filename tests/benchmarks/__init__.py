"""Measurements by hand, never by CI: ``python -m tests.benchmarks.NAME [--quick] --json PATH``."""
