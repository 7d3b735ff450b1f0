"""Every backend that can be imported here, on every kind of device that it takes; those that are not here skip."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.dispatch import backends
from tests.sae.kernels.interpreter import patch_language_once
from tests.sae.kernels.problems import INTERPRETED
from tests.sampled import sampled

DEVICES = ("cpu", "cuda")


def _places() -> list[Any]:
    return [
        pytest.param((backend, device), id=f"{backend.name}-{device}", marks=[pytest.mark.gpu] if device == "cuda" else [])
        for backend in backends()
        for device in DEVICES
        if backend.takes(device, torch.float32)
    ]


@pytest.fixture(scope="session", autouse=True)
def language() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            patch_language_once(patch)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the interpreter, which is slow, a case of each test that is of the Triton backend."""
    if INTERPRETED:
        found = [item for item in items if "triton-cpu" in item.nodeid or "in_interpreter" in item.nodeid]
        items[:] = sampled(found, share=0, kind=lambda item: item.nodeid.split("[")[0])


# For the session, as hypothesis wants of fixtures beside its own arguments.
@pytest.fixture(scope="session", params=_places())
def backend_on(request: pytest.FixtureRequest) -> tuple[Backend, str]:
    backend, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return backend, device


@pytest.fixture(scope="session")
def ops(backend_on: tuple[Backend, str]) -> Backend:
    return backend_on[0]


@pytest.fixture(scope="session")
def device(backend_on: tuple[Backend, str]) -> str:
    return backend_on[1]
