"""Spoilt configurations end in one sentence or are accepted; never in a traceback, a hang or a full memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.mutated_configurations import GOOD
from tests.sampled import every_case, sampled

N_CASES = 3000
SHARE = 0.05
ROOT = Path(__file__).parents[2]
PATIENCE_S = 7200 if every_case() else 600


@pytest.mark.timeout(PATIENCE_S + 60)
def test_spoilt_configurations_are_accepted_or_refused_in_one_sentence() -> None:
    numbers = sampled(range(N_CASES), SHARE, kind=lambda number: 0)
    # In a process of its own, as it forks: a fork of this one would lose threads of Ray's, and keep the locks they hold.
    command = [sys.executable, "-m", "tests.flows.mutated_configurations", "--json", *map(str, numbers)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [number for number, _, _ in found] == list(numbers)
    assert [outcome for outcome in found if outcome[1] not in GOOD] == []
    refused = sum(kind == "refused" for _, kind, _ in found)
    assert len(numbers) // 2 < refused < len(numbers), "the generator spoils too little or too much to tell anything"
