"""Which tests go together to one of pytest's processes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.grouped import group


@pytest.mark.parametrize(
    ("nodeid", "has", "name", "long"),
    [
        ("tests/train/test_ray_train.py::test_a", {"ray", "ray_cluster", "s3"}, "ray-train", True),
        ("tests/train/test_nodes.py::test_a[1]", {"ray"}, "train-nodes", True),
        ("tests/flows/test_serve.py::test_a", {"served", "ray", "prefect", "browser"}, "prefect-flows", True),
        ("tests/flows/test_scheduler.py::test_a", {"prefect"}, "flows-scheduler", True),
        ("tests/report/test_in_browser.py::test_a[x::y]", {"browser", "chromium"}, "report-in_browser", False),
        ("tests/test_configs.py::test_a", set(), "tests-configs", False),
    ],
)
def test_what_is_slow_to_start_is_started_for_one_group_and_files_stay_whole(
    nodeid: str, has: set[str], name: str, long: bool
) -> None:
    assert group(nodeid, has) == (name, long)


def test_each_of_several_processes_takes_whole_files(tmp_path: Path) -> None:
    for name in ("test_a.py", "test_b.py", "test_c.py"):
        (tmp_path / name).write_text("import pytest\n@pytest.mark.parametrize('i', range(9))\ndef test_it(i): pass\n")
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--numprocesses",
        "2",
        "-v",
        str(tmp_path),
    ]
    told = subprocess.run([*command, "--no-loadscope-reorder"], cwd=ROOT, capture_output=True, text=True).stdout
    takers = re.findall(r"\[(gw\d)\] .* PASSED .*(test_[abc])\.py", told)
    assert len(takers) == 27, told
    assert len(set(takers)) == 3, "a file went to two processes"
