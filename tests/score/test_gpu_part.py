"""The card's script, as far as it goes without a card."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A name that stands for None in sys.modules cannot be imported.
CODE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["ray", "prefect", "s3fs"]))
runpy.run_module("tests.benchmarks.gpu", run_name="__main__")
"""


def test_part_score_runs_without_a_card_and_without_ray_prefect_and_s3fs(tmp_path: Path) -> None:
    options = ["--part", "score", "--quick", "--device", "cpu", "--json", str(tmp_path / "found.json")]
    subprocess.run([sys.executable, "-c", CODE, *options], check=True, capture_output=True, cwd=Path(__file__).parents[2])
    checks = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert checks["d_in 64, d_sae 512, k 8: rows"] == 4096
    assert checks["d_in 64, d_sae 512, k 8: rows_per_second survey"] > 0
    held = {name.removeprefix("held against a CPU: "): value for name, value in checks.items() if "held" in name}
    assert held.pop("latents_that_fire_on_other_rows") == 0
    for name in ("top_hits_in_common", "sampled_hits_in_common", "neighbours_in_common"):
        assert held.pop(name) == 1
    assert held.pop("summary_differs_by") < 1e-9
    assert held == {"baselines_differ_by": 0, "cross_entropies_differ_by": pytest.approx(0, abs=1e-9)}
