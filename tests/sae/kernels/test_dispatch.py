import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tasks.sae.kernels import dispatch
from tasks.sae.kernels.dispatch import backend_for, backends
from tasks.sae.kernels.torch_reference import TorchBackend


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    """What was found out about backends before the test is forgotten, and what is found out in it is too."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    backends.cache_clear()
    dispatch._chosen.cache_clear()


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize("package", dispatch._FOLDERS)
def test_without_the_package_that_a_backend_needs_it_is_passed_over(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    homes = [type(backend).__module__ for backend in backends()]
    assert not [home for home in homes if home.startswith(f"tasks.sae.kernels.{package}")]


@pytest.mark.usefixtures("chosen_anew")
def test_without_any_of_these_packages_the_same_is_done_in_plain_torch(monkeypatch):
    for package in dispatch._FOLDERS:
        monkeypatch.setitem(sys.modules, package, None)
    assert backend_for(torch.ones(1)).name == "torch"
    monkeypatch.undo()
    _forget()
    assert backend_for(torch.ones(1)).name != "torch"


def test_what_no_kernel_is_compiled_for_is_done_in_plain_torch():
    assert backend_for(torch.ones(1, device="meta")).name == "torch"
    assert backends()[-1].name == "torch"


class _ForHalves(TorchBackend):
    name = "halves"

    def takes(self, device: str, dtype: torch.dtype) -> bool:
        return dtype == torch.float16


@pytest.mark.usefixtures("chosen_anew")
def test_another_backend_is_a_folder_and_a_line(monkeypatch):
    before = backend_for(torch.ones(1)).name
    _forget()
    folder = ModuleType("tasks.sae.kernels.halves")
    folder.BACKEND = _ForHalves()
    monkeypatch.setitem(sys.modules, "halves", ModuleType("halves"))
    monkeypatch.setitem(sys.modules, "tasks.sae.kernels.halves", folder)
    monkeypatch.setattr(dispatch, "_FOLDERS", ("halves", *dispatch._FOLDERS))
    assert backend_for(torch.ones(1, dtype=torch.float16)).name == "halves"
    assert backend_for(torch.ones(1)).name == before
