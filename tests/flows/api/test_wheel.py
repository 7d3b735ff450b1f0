"""What an installation brings: ``saemill`` at the top, ours beside it, from a wheel or from the working tree."""

import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.flows.api.conftest import EDITABLE, python

pytest.importorskip("hatchling")
pytest.importorskip("editables")

BUILD = "import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"


def built(kind: str, folder: Path) -> zipfile.ZipFile:
    """The wheel, or the editable one, that pip would make of this repository."""
    name = python(ROOT, "-c", BUILD.format(kind=kind), str(folder)).splitlines()[-1]
    return zipfile.ZipFile(folder / name)


def test_a_wheel_has_the_package_at_its_top_and_imports_from_an_empty_folder(tmp_path: Path) -> None:
    wheel, site, empty = built("wheel", tmp_path), tmp_path / "site", tmp_path / "empty"
    names = set(wheel.namelist())
    assert {"saemill/__init__.py", "saemill/_own_packages.py", "flows/api/training.py", "tasks/errors.py"} <= names
    assert not [name for name in names if "on_path" in name]
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == {
        "flows",
        "saemill",
        "tasks",
    }
    wheel.extractall(site)
    empty.mkdir()
    (empty / "tasks.py").write_text("")
    code = "import saemill, flows, tasks; print(saemill.InputError.__name__, tasks.__file__, flows.__file__)"
    found = python(empty, "-c", code, path=[site])
    assert found.split() == ["InputError", str(site / "tasks/__init__.py"), str(site / "flows/__init__.py")]


def test_an_editable_installation_puts_the_working_tree_on_the_path(tmp_path: Path) -> None:
    wheel = built("editable", tmp_path)
    [path] = [name for name in wheel.namelist() if name.endswith(".pth")]
    assert set(wheel.read(path).decode().split("\n")) == set(map(str, EDITABLE))
