"""``import saemill``: quick, without torch, and beside whatever a user's folder holds."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import saemill
from tests.conftest import ROOT
from tests.flows.api.conftest import FOLDERS, ON_PATH, python

HEAVY = {"torch", "ray", "transformers", "prefect", "pandas", "pyarrow", "numpy", "pydantic", "typer"}
MOST_S = 0.3
FolderWith = Callable[[str], Path]


def test_the_import_takes_less_than_a_third_of_a_second_and_brings_no_torch(tmp_path: Path) -> None:
    timed = "import sys, time; t = time.perf_counter(); import saemill; t = time.perf_counter() - t; "
    code = f"{timed}import json; print(json.dumps([t, sorted(sys.modules)]))"
    found = [json.loads(python(tmp_path, "-c", code)) for _ in range(3)]  # a busy machine makes one slow
    assert min(seconds for seconds, _ in found) < MOST_S
    assert HEAVY.isdisjoint(found[0][1])


def test_every_name_is_there_and_listed() -> None:
    assert set(saemill.__all__) == set(saemill._HOMES)
    assert {*saemill.__all__, "__version__"} == set(dir(saemill))
    assert all(getattr(saemill, name).__name__ == name for name in saemill.__all__)
    assert saemill.__version__


def test_type_checkers_find_every_name_where_it_is_found_at_run_time() -> None:
    tree = ast.parse((ON_PATH / "saemill/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == saemill._HOMES


def test_another_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        saemill.lod  # noqa: B018


def test_nobody_imports_the_package_by_its_place_in_the_repository() -> None:
    for path in [*(ROOT / "flows").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        assert "flows.api.on_path" not in path.read_text()


@pytest.mark.parametrize("what", FOLDERS)
@pytest.mark.parametrize("how", ["-c", "script"])
def test_our_packages_are_used_wherever_python_is_started(what: str, how: str, folder_with: FolderWith) -> None:
    folder = folder_with(what)
    code = "import saemill; saemill.InputError; import flows.config, tasks.settings; print(flows.__file__, tasks.__file__)"
    (folder / "script.py").write_text(code)
    found = python(folder, *(["-c", code] if how == "-c" else ["script.py"]))
    assert found.split() == [str(ROOT / "flows/__init__.py"), str(ROOT / "tasks/__init__.py")]


def test_a_script_called_tasks_may_import_saemill(folder_with: FolderWith) -> None:
    folder = folder_with("empty")
    (folder / "tasks.py").write_text("import saemill\nprint(saemill.InputError.__module__)\n")
    assert python(folder, "tasks.py") == "tasks.errors"


def told_by(folder: Path, code: str) -> str:
    """The error that the last line of some code ends in."""
    *before, last = code.splitlines()
    told = ["try:", f"    {last}", "except Exception as error:", "    print(type(error).__name__, error)"]
    (folder / "script.py").write_text("\n".join([*before, *told]))
    return python(folder, "script.py")


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("tasks.py", "import tasks\ntasks.clean()"),
        ("tasks.py", "from tasks import clean"),
        ("package", "import tasks\ntasks.clean()"),
        ("package", "from tasks import clean"),
        ("package", "import tasks.mine"),
        ("package", "from tasks.mine import clean"),
        ("plain folder", "from tasks.mine import clean"),
    ],
)
def test_an_own_module_that_is_imported_later_is_named_as_hidden(what: str, after: str, folder_with: FolderWith) -> None:
    folder = folder_with(what)
    hidden = folder / {"tasks.py": "tasks.py", "package": "tasks/__init__.py", "plain folder": "tasks"}[what]
    found = told_by(folder, f"import saemill\n{after}")
    assert found.startswith(("AttributeError", "ImportError"))
    assert f"hides {hidden}" in found
    assert "rename yours" in found


@pytest.mark.parametrize(("what", "before"), [("tasks.py", "import tasks"), ("package", "import tasks.mine")])
def test_an_own_module_that_was_imported_before_is_named_and_stays(what: str, before: str, folder_with: FolderWith) -> None:
    folder = folder_with(what)
    found = told_by(folder, f"{before}\nimport saemill")
    assert found.startswith("ImportError saemill has a package called 'tasks' of its own")
    assert str(folder / "tasks") in found
    (folder / "script.py").write_text(
        f"{before}\ntry:\n    import saemill\nexcept ImportError:\n    import tasks\n    print(tasks.clean())"
    )
    assert python(folder, "script.py") == "mine"


def test_what_our_packages_lack_is_missing_as_usual_where_nothing_is_hidden(tmp_path: Path) -> None:
    assert "hides" not in told_by(tmp_path, "import saemill, tasks\ntasks.clean")
    assert told_by(tmp_path, "import saemill\nimport tasks.mine").startswith("ModuleNotFoundError")
