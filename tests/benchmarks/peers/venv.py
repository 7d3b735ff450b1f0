"""Other libraries of SAEs, each in an environment of its own, made once and kept below the user's cache."""

import fcntl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import CACHE, ROOT


@dataclass(frozen=True)
class Peer:
    """A library as it is installed: its own package, first, and what goes beside it."""

    packages: tuple[str, ...]
    without: tuple[str, ...] = ()
    """Packages that others ask for, but that are in the way."""
    our_versions: bool = False
    """With the very torch and transformers that its rivals run on."""

    @property
    def version(self) -> str:
        """The package and its version, under which results are recorded."""
        return self.packages[0]

    @property
    def venv(self) -> Path:
        """Where the environment is kept between runs."""
        return CACHE / self.version

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.venv / "bin" / "python")


TORCH = "torch==2.13.0"
PEERS = {
    "saelens": Peer(("sae-lens==6.54.12", TORCH), our_versions=True),
    "sparsify": Peer(("eai-sparsify==1.3.3", TORCH)),
    # torchvision is not used; built for another torch than a CPU's, it ends every import of transformers.
    "dictionary_learning": Peer(("dictionary-learning==0.1.0", TORCH), without=("torchvision",)),
    "circuit-tracer": Peer(("circuit-tracer==0.5.0", TORCH)),
}
SAELENS = PEERS["saelens"]


def make_venv(name: str, venv: Path | None = None) -> Peer:
    """Make a library's environment, or keep it where it is finished; of two that want it at once, one waits."""
    peer = PEERS[name]
    venv = venv or peer.venv
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_name(f"{venv.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = venv / "finished"
        if finished.exists():
            return peer
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [str(venv / "bin" / "pip"), "--quiet"]
        constraint = ["--constraint", str(ROOT / "constraints.txt")] if peer.our_versions else []
        subprocess.run([*pip, "install", *constraint, *peer.packages], check=True)
        if peer.without:
            subprocess.run([*pip, "uninstall", "--yes", *peer.without], check=True)
        finished.touch()
    return peer
