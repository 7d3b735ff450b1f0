"""saemill's commands in processes of their own, as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks import ROOT

SMALL = ("text.max_tokens=60000", "train.tokens=100000", "sae.d_sae=1024")
"""What ``--quick`` sets where the demo is run."""


def command(verb: str, config: str, storage: str, settings: Iterable[str] = ()) -> list[str]:
    """``saemill VERB CONFIG``, which answers in JSON."""
    overrides = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "flows.cli", verb, config, "--storage", storage, "--json", *overrides]


def ran(verb: str, config: str, storage: str, settings: Iterable[str] = (), tree: Path = ROOT) -> dict[str, Any]:
    """What the command answers, by the code of this tree or of another."""
    return _answer(command(verb, config, storage, settings), tree)


def answered(*arguments: str) -> dict[str, Any]:
    """What ``saemill`` answers to these arguments, which name no configuration."""
    return _answer([sys.executable, "-m", "flows.cli", *arguments, "--json"])


def _answer(words: list[str], tree: Path = ROOT) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(words, cwd=tree, env=environment, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def harvested(config: str, storage: str, settings: Iterable[str] = ()) -> str:
    """The address of the activations, made where they are not there yet; what a harvest leaves in memory is not ours."""
    return str(ran("harvest", config, storage, settings)["activations"])
