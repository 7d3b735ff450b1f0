"""The architecture's rules, as assertions. Files and packages are found, not listed, so that none escapes them."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted(path for folder in ("flows", "tasks") for path in (ROOT / folder).rglob("*.py"))
S3_CLIENTS = {"aiobotocore", "boto3", "botocore", "fsspec", "s3fs"}


def module(path: Path) -> str:
    """'tasks.sae.config' of tasks/sae/config.py, and 'tasks.sae' of its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PYTHON}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, anywhere in it: in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = absolute(node, path) if node.level else node.module or ""
            yield from (name if name in MODULES else home for name in (f"{home}.{alias.name}" for alias in node.names))


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The dotted name of what is imported by a relative one; each dot but the first is a package further up."""
    parts = path.relative_to(ROOT).parent.parts
    return ".".join([*parts[: len(parts) + 1 - node.level], *filter(None, [node.module])])


IMPORTS = {name: set(imports(path)) for name, path in MODULES.items()}


def relative(name: str) -> str:
    return MODULES[name].relative_to(ROOT).as_posix()


def users(package: str) -> set[str]:
    return {relative(name) for name, found in IMPORTS.items() if any(one.split(".")[0] == package for one in found)}


def room(name: str) -> str:
    """The package, or the loose file, of tasks that a module belongs to: 'harvest' of tasks.harvest.pool.actor."""
    return name.split(".")[1] if name.startswith("tasks.") else ""


LOOSE = {room(name) for name, path in MODULES.items() if path.parent == ROOT / "tasks"} - {""}
PACKAGES = {room(name) for name in MODULES} - LOOSE - {""}
STAGES = {package for package in PACKAGES if f"tasks.{package}.stage" in MODULES}


def ours(package: str) -> Iterator[tuple[str, str]]:
    """Each file of a package, or the loose file, with each module of ours elsewhere that it imports."""
    for name in MODULES:
        for other in IMPORTS[name] if room(name) == package else ():
            if other.startswith(("tasks.", "flows.")) and room(other) != package:
                yield relative(name), other


def ring(edges: Mapping[str, set[str]]) -> list[str]:
    """Nodes that lead from one to the next and back to the first; none where there is no ring."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return way[way.index(node) :]
        if node not in done:
            for other in sorted(edges.get(node, ())):
                if found := walk(other, [*way, node]):
                    return found
        done.add(node)
        return []

    return next((found for node in sorted(edges) if (found := walk(node, []))), [])


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


def test_s3_is_known_only_in_storage() -> None:
    clients = {name for client in S3_CLIENTS for name in users(client)}
    assert clients
    assert {name for name in clients if not name.startswith("tasks/storage/")} == set()
    asked = {relative(name) for name, path in MODULES.items() if "s3://" in schemes(path)}
    assert asked
    assert {name for name in asked if not name.startswith("tasks/storage/")} == set()


def schemes(path: Path) -> set[str]:
    """The schemes of URIs with which texts in the code begin, such as those with which a URI is compared."""
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return {found[0] for text in texts if isinstance(text, str) and (found := re.match(r"[\w+.-]+://", text))}


def test_nothing_is_unpickled() -> None:
    assert users("pickle") | users("joblib") | users("dill") == set()


def test_no_files_import_each_other_in_a_ring() -> None:
    assert ring(IMPORTS) == []


def test_no_packages_import_each_other_in_a_ring() -> None:
    edges = defaultdict(set)
    for package in PACKAGES | LOOSE:
        edges[package] |= {room(other) for _, other in ours(package)}
    assert ring(edges) == []


def test_a_class_name_stands_for_one_thing() -> None:
    found = defaultdict(set)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())) if name.startswith("tasks") else ():
            if isinstance(node, ast.ClassDef):
                found[node.name].add(relative(name))
    assert found
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tasks/sae").rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_the_maths_knows_torch_and_little_else(path: Path) -> None:
    # typing_extensions is what typing of a later Python is, and torch itself needs it.
    allowed = {"torch", "jaxtyping", "safetensors", "typing_extensions", "tasks"} | sys.stdlib_module_names
    if path.parent.parent.name == "kernels":  # a folder of kernels is called as the package that it needs
        allowed |= {path.parent.name, "numpy", "llvmlite"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed
    elsewhere = {name for name in imports(path) if name.startswith("tasks.") and not name.startswith("tasks.sae")}
    assert {name for name in elsewhere if not name.startswith("tasks.storage.")} <= {"tasks.errors", "tasks.out_of_memory"}


# What a package may import of ours beside itself, the loose files and the ground; a package that is not named here, no more.
GROUND = {"storage", "activations"}
USES = {
    "text": {"lm"},
    "harvest": {"lm"},
    "train": {"sae"},
    "encode": {"sae"},
    "gates": {"encode", "sae"},
    "score": {"encode", "sae", "lm"},
    "report": {"sae"},
    "interchange": {"sae"},
    "identity": {"encode", "sae"},
    "publish": {"interchange", "sae", "lm"},
}
READ_BACK = "tasks.text.stored"
"""How other stages read a directory of tokens."""


@pytest.mark.parametrize("stage", sorted(PACKAGES))
def test_stages_meet_only_in_directories(stage: str) -> None:
    allowed = LOOSE | GROUND | USES.get(stage, set())
    assert {(file, name) for file, name in ours(stage) if room(name) not in allowed and name != READ_BACK} == set()
    assert not allowed & STAGES


def test_every_package_that_may_use_another_is_there() -> None:
    assert USES.keys() | GROUND | {other for others in USES.values() for other in others} <= PACKAGES
    assert {"text", "harvest", "train", "score", "report"} <= STAGES


def test_storage_knows_nothing_of_what_is_stored() -> None:
    assert {name for _, name in ours("storage")} <= {"tasks.errors", "tasks.secret"}


@pytest.mark.parametrize("file", sorted(LOOSE))
def test_loose_files_know_no_package_but_storage(file: str) -> None:
    assert {(where, name) for where, name in ours(file) if room(name) not in LOOSE | {"storage"}} == set()


def test_the_report_needs_neither_torch_nor_ray() -> None:
    names = {name for path in (ROOT / "tasks/report").rglob("*.py") for name in imports(path)}
    assert not {name.split(".")[0] for name in names} & {"torch", "ray", "transformers"}
    assert {name for name in names if name.startswith("tasks.sae")} == {"tasks.sae.architectures.names"}


@pytest.mark.parametrize("name", ["flows", "tasks"])
def test_generic_names_resolve_to_this_repository(name: str) -> None:
    assert Path(str(__import__(name).__file__)).parent == ROOT / name


# What the tests above rest on.


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c"]),
        ({"a": {"d"}, "b": {"a"}, "d": {"b"}}, ["a", "d", "b"]),
        ({"a": {"a"}}, ["a"]),
    ],
)
def test_a_ring_is_found_wherever_it_begins(edges: dict[str, set[str]], expected: list[str]) -> None:
    assert ring(edges) == expected


def test_imports_are_found_anywhere_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import x.y\nif TYPE_CHECKING:\n  from tasks.sae import config\ndef f():\n  from tasks.errors import InputError\n"
    )
    assert set(imports(tmp_path / "a.py")) == {"x.y", "tasks.sae.config", "tasks.errors"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from .config import SAEConfig", "tasks.sae.config"),
        ("from . import config", "tasks.sae.config"),
        ("from ..errors import InputError", "tasks.errors"),
        ("from .. import nothing", "tasks"),
    ],
)
def test_relative_names_count_as_well(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert set(imports(ROOT / "tasks/sae/model.py")) == {expected}


def test_a_scheme_is_found_in_code_and_not_in_the_midst_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""Takes s3:// URIs too."""\nlocal = not uri.startswith(("s3://", "/"))\n')
    assert schemes(tmp_path / "a.py") == {"s3://"}
    (tmp_path / "b.py").write_text('"""Takes s3:// URIs too."""\nhelp = "A folder or s3://bucket/prefix."\n')
    assert "s3://" not in schemes(tmp_path / "b.py")
