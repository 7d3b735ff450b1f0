"""The command line with Ray: the same SAE from a few windows at a time, though an actor and then the command are killed."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.rolling.__main__ import RESULT
from tests.conftest import ROOT
from tests.harvest.kills import write_config
from tests.kills.processes import HARVESTER, kill, kill_tree, titled
from tests.patience import PATIENCE_S, until
from tests.rolling.forked_kills import SETTINGS
from tests.turns import kills_a_whole_run

LENGTH = ("train.tokens=40000", "train.precision=fp32", "ray.num_cpus=2", "harvest.actors=1")


def start(folder: Path, storage: Path, *settings: str) -> psutil.Popen:
    given = [part for setting in (*SETTINGS, *LENGTH, *settings) for part in ("--set", setting)]
    words = [sys.executable, "-m", "flows.cli", "train", str(folder / "config.yaml"), "--storage", str(storage), "--json"]
    return psutil.Popen([*words, *given], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: psutil.Popen) -> Path:
    """Where the SAE is, once it is there."""
    out, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said.decode()[-3000:]
    return Path(json.loads(out)["sae"])


@pytest.mark.ray
@kills_a_whole_run
def test_a_few_windows_at_a_time_give_the_same_sae_though_an_actor_and_the_command_are_killed(tmp_path: Path) -> None:
    write_config(tmp_path, 50_000)
    whole = ended(start(tmp_path, tmp_path / "all"))
    window = (tmp_path / "window", "harvest.keep=window", "harvest.window_bytes=600000")

    def windows() -> int:
        return len(list(tmp_path.glob("window/lakes/*/windows/*/manifest.json")))

    process = start(tmp_path, *window)
    try:
        until(lambda: windows() > 3 or process.poll() is not None, "a few windows")
        kill(titled(HARVESTER))
        before = windows()
        until(lambda: windows() > before + 3 or process.poll() is not None, "some more")
        assert process.poll() is None, "killed too late to show anything"
    finally:
        kill_tree(process)
    rolled = ended(start(tmp_path, *window))
    assert [(rolled / name).read_bytes() for name in RESULT] == [(whole / name).read_bytes() for name in RESULT]
    assert not list(tmp_path.glob("window/lakes/*/*"))
    consumed = json.loads((rolled / "consumed.json").read_text())
    assert len(consumed["windows"]) > 40
    again = start(tmp_path, *window)
    assert ended(again) == rolled
