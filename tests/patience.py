"""How long tests wait."""

PATIENCE_S = 900.0
"""For what takes seconds on a quiet machine: a busy one makes tests slow, not red, and what hangs ends some time."""
