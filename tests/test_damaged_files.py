"""Damaged and hostile files of every format that is read: they end well or in one sentence (tests/damaged_files.py)."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.damaged_files import CASES_EACH, Outcome
from tests.damaged_formats import FORMATS
from tests.sampled import every_case, sampled

# Folders of models take a second each to load, all else a few hundredths.
SLOW = {name for name in FORMATS if name.startswith(("model-", "tokens-", "checkpoint-"))}
GROUPS = {"models": sorted(SLOW), "others": [name for name in FORMATS if name not in SLOW]}


def outcomes(names: list[str]) -> list[Outcome]:
    """A process of its own, with one thread: what it forks must not inherit another test's threads."""
    share = [f"{name}:{','.join(str(n) for _, n in chosen)}" for name, chosen in _chosen(names).items()]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the usual one reserves a GiB of addresses, which the limit counts
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.damaged_files", "--json", *share]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr[-3000:]
    return [Outcome(**json.loads(line)) for line in lines]


def _chosen(names: list[str]) -> dict[str, list[tuple[str, int]]]:
    cases = [(name, number) for name in names for number in range(CASES_EACH)]
    share = cases if every_case() else sampled(cases, share=0.1, kind=lambda case: case[0])
    return {name: [case for case in share if case[0] == name] for name in names}


@pytest.mark.parametrize("group", GROUPS)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(group: str) -> None:
    found = outcomes(GROUPS[group])
    whole = [outcome for outcome in found if outcome.case.endswith("whole")]
    assert [outcome for outcome in whole if outcome.how != "read"] == []
    assert [outcome for outcome in found if not outcome.well] == []
    assert any(outcome.how == "refused" for outcome in found)


def test_there_are_300_cases_and_every_format_has_its_own() -> None:
    assert len(FORMATS) * CASES_EACH >= 300
