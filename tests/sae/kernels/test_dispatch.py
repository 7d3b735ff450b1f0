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
def test_without_numba_the_same_is_done_in_plain_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    assert backend_for(torch.ones(1)).name == "torch"
    monkeypatch.undo()
    _forget()
    assert backend_for(torch.ones(1)).name == "numba"


def test_what_no_kernel_is_compiled_for_is_done_in_plain_torch():
    assert backend_for(torch.ones(1, dtype=torch.float16)).name == "torch"
    assert backend_for(torch.ones(1, device="meta")).name == "torch"
    assert backends()[-1].name == "torch"


class _ForHalves(TorchBackend):
    name = "halves"

    def takes(self, device: str, dtype: torch.dtype) -> bool:
        return dtype == torch.float16


@pytest.mark.usefixtures("chosen_anew")
def test_another_backend_is_a_folder_and_a_line(monkeypatch):
    folder = ModuleType("tasks.sae.kernels.halves")
    folder.BACKEND = _ForHalves()
    monkeypatch.setitem(sys.modules, "halves", ModuleType("halves"))
    monkeypatch.setitem(sys.modules, "tasks.sae.kernels.halves", folder)
    monkeypatch.setattr(dispatch, "_FOLDERS", ("halves", *dispatch._FOLDERS))
    assert backend_for(torch.ones(1, dtype=torch.float16)).name == "halves"
    assert backend_for(torch.ones(1)).name == "numba"
