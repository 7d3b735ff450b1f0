"""SAELens in an environment of its own, with the very torch and transformers that its rivals run on."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAELENS = ("sae-lens==6.54.12", "torch==2.13.0")


def default_venv() -> Path:
    """Where the environment is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "saemill" / SAELENS[0]


def make_venv(venv: Path) -> None:
    """Make the environment, or keep it where it is finished; of two that want it at once, one waits."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_name(f"{venv.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = venv / "finished"
        if finished.exists():
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [str(venv / "bin" / "pip"), "--quiet", "install", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *SAELENS], check=True)
        finished.touch()
