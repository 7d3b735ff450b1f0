"""Measurements by hand, never by CI: ``python -m tests.benchmarks.FOLDER[.NAME] [--quick] --json PATH``."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "saemill"
"""What is kept between runs: other libraries' environments, activations, streams."""
