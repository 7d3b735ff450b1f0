"""Other libraries of SAEs, each in an environment of its own, made once and kept below the user's cache."""

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.saelens_venv import SAELENS
from tests.benchmarks.saelens_venv import make_venv as make_saelens_venv


@dataclass(frozen=True)
class Peer:
    """A library as it is installed: its own package, first, and what goes beside it."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """Packages that are installed without what they ask for."""
    without: tuple[str, ...] = ()
    """Packages that others ask for, but that are in the way."""

    @property
    def venv(self) -> Path:
        """Where the environment is kept between runs."""
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cache / "saemill" / (*self.alone, *self.packages)[0]

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.venv / "bin" / "python")


TORCH = "torch==2.13.0"
PEERS = {
    "saelens": Peer(SAELENS),
    "sparsify": Peer(("eai-sparsify==1.3.3", TORCH)),
    # torchvision is not used; built for another torch than a CPU's, it ends every import of transformers.
    "dictionary_learning": Peer(("dictionary-learning==0.1.0", TORCH), without=("torchvision",)),
    "circuit-tracer": Peer(("circuit-tracer==0.5.0", TORCH)),
}


def make_venv(name: str) -> Peer:
    """Make a library's environment, or keep it where it is finished; of two that want it at once, one waits."""
    peer = PEERS[name]
    if name == "saelens":  # shared with the other benchmarks
        make_saelens_venv(peer.venv)
        return peer
    peer.venv.parent.mkdir(parents=True, exist_ok=True)
    with open(peer.venv.with_name(f"{peer.venv.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = peer.venv / "finished"
        if finished.exists():
            return peer
        subprocess.run([sys.executable, "-m", "venv", "--clear", peer.venv], check=True)
        pip = [str(peer.venv / "bin" / "pip"), "--quiet", "install"]
        subprocess.run([*pip, *peer.packages], check=True)
        if peer.alone:
            subprocess.run([*pip, "--no-deps", *peer.alone], check=True)
        if peer.without:
            subprocess.run([*pip[:-1], "uninstall", "--yes", *peer.without], check=True)
        finished.touch()
    return peer
