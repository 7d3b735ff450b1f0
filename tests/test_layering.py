"""The architecture's rules, as assertions."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted(path for folder in ("flows", "tasks") for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def users(package: str) -> set[str]:
    named = {path for path in PYTHON for name in imports(path) if name.split(".")[0] == package}
    return {path.relative_to(ROOT).as_posix() for path in named}


def test_ray_is_imported_only_in_files_named_after_it() -> None:
    assert users("ray")
    assert {name for name in users("ray") if not name.rpartition("/")[2].startswith("ray_")} == set()


def test_prefect_is_imported_only_in_flows() -> None:
    assert users("prefect")
    assert {name for name in users("prefect") if not name.startswith("flows/")} == set()


def test_what_runs_a_pipeline_is_unknown_to_its_stages() -> None:
    assert users("flows")
    assert {name for name in users("flows") if not name.startswith("flows/")} == set()
    assert [path for path in PYTHON if "PipelineConfig" in path.read_text() and path.parts[len(ROOT.parts)] == "tasks"] == []


def test_nothing_is_unpickled() -> None:
    assert users("pickle") | users("joblib") | users("dill") == set()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tasks/sae").rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_the_maths_knows_torch_and_little_else(path: Path) -> None:
    allowed = {"torch", "jaxtyping", "safetensors", "tasks"} | sys.stdlib_module_names
    if path.parent.parent.name == "kernels":  # a folder of kernels is called as the package that it needs
        allowed |= {path.parent.name, "numpy", "llvmlite"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed
    ours = {name for name in imports(path) if name.startswith("tasks.") and not name.startswith("tasks.sae")}
    assert {name for name in ours if not name.startswith("tasks.storage.")} <= {"tasks.errors"}


# What each stage may import of ours beside its own package and the shared ground.
GROUND = {
    "activations",
    "errors",
    "hook_roles",
    "latent_columns",
    "machine",
    "precision",
    "progress",
    "ray_cluster",
    "ray_config",
    "recipe",
    "settings",
    "stage",
    "storage",
}
STAGES = {
    "text": {"lm"},
    "lm": set(),
    "harvest": {"lm"},
    "train": {"sae"},
    "encode": {"sae"},
    "score": {"encode", "sae", "lm"},
    "report": {"sae"},
    "interchange": {"sae"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_meet_only_in_directories(stage: str) -> None:
    allowed = GROUND | STAGES[stage] | {stage}
    found = {
        f"{path.name}: {name}"
        for path in (ROOT / "tasks" / stage).glob("*.py")
        for name in imports(path)
        if name.startswith("tasks.") and name.split(".")[1] not in allowed and name != "tasks.text.stored"
    }
    assert found == set()


def test_the_report_needs_neither_torch_nor_ray() -> None:
    names = {name for path in (ROOT / "tasks/report").glob("*.py") for name in imports(path)}
    assert not {name.split(".")[0] for name in names} & {"torch", "ray", "transformers"}
    assert {name for name in names if name.startswith("tasks.sae")} == {"tasks.sae.architectures.names"}


@pytest.mark.parametrize("name", ["flows", "tasks"])
def test_generic_names_resolve_to_this_repository(name: str) -> None:
    assert Path(str(__import__(name).__file__)).parent == ROOT / name
