"""What the numba backend alone promises: how work is shared among threads, and what its machine code may call."""

import ast
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.sae.kernels import numba
from tasks.sae.kernels.numba import BACKEND, threads
from tests.conftest import ROOT
from tests.patience import PATIENCE_S
from tests.sae.kernels.problems import problem


@pytest.fixture
def n_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_parts_with_and_without_gradients_on_values_are_not_mixed():
    at = problem(BACKEND, "cpu", torch.float32)
    with pytest.raises(ValueError, match="Some parts have d_values and some have none"):
        BACKEND.by_latent([at.part, replace(at.part, d_values=None)], (0, len(at.W_dec)))


@pytest.fixture(params=["openmp", "plain"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, n_threads: None) -> None:
    """Three threads, of either kind."""
    torch.set_num_threads(3)
    if request.param == "plain":
        monkeypatch.setattr(threads, "_runner", lambda process: threads.plain)
    elif threads._runner(os.getpid()) is threads.plain:
        pytest.skip("torch has not GNU OpenMP's threads here")


def _fill(n: int) -> None:
    done = np.zeros(n, np.int64)

    def work(low: int, high: int) -> None:
        done[low:high] += 1

    threads.share(work, n, 3)
    assert (done == 1).all()


@pytest.mark.usefixtures("runner")
def test_work_is_shared_out_whole():
    _fill(100)
    _fill(2)
    _fill(0)


@pytest.mark.usefixtures("runner")
def test_work_runs_on_several_threads_at_once():
    together = threading.Barrier(3, timeout=PATIENCE_S)
    threads.share(lambda low, high: together.wait(), 3, 1)


@pytest.mark.usefixtures("runner")
def test_work_is_shared_out_in_a_forked_process_too():
    _fill(100)
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(50,))
    child.start()
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.usefixtures("runner")
def test_an_error_on_any_thread_is_raised():
    together = threading.Barrier(3, timeout=PATIENCE_S)

    def work(low: int, high: int) -> None:
        together.wait()
        if low == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.share(work, 3, 1)


def test_kernels_call_those_of_their_own_file_only():  # numba keeps machine code until that file changes, whatever it calls
    folder = Path(numba.__file__).parent
    homes = {path.stem: path.read_text() for path in folder.glob("*.py") if "@kernel\n" in path.read_text()}
    assert len(homes) >= 3
    for text in homes.values():
        assert re.findall(r"from tasks\.sae\.kernels\.numba\.(\w+)", text) in (["jit"], ["jit", "threads"])


def test_what_kernels_call_is_compiled_into_them() -> None:
    for path in Path(numba.__file__).parent.glob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        by_decorator = {
            which: {function.name: function for function in functions if which in map(ast.unparse, function.decorator_list)}
            for which in ("kernel", "inlined")
        }
        for function in [*by_decorator["kernel"].values(), *by_decorator["inlined"].values()]:
            called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
            assert not called & set(by_decorator["kernel"]), f"{path.name}: {function.name}"


STEPS = """
import hashlib, torch
from tasks.sae.kernels.numba import BACKEND
from tasks.sae.kernels.types import AdamStep
from tests.sae.kernels.problems import problem

at = problem(BACKEND, "cpu", torch.float32, n=2000)  # enough of each latent for sums by eight
state = at.state()
for step in (1, 2):
    settings = AdamStep(lr=.1, betas=(.9, .99), eps=1e-8, step=step, unit_norm=True)
    BACKEND.by_latent([at.part], (0, len(at.W_dec))).adam(*state, settings)
print(hashlib.sha256(torch.cat([parameters.flat for parameters in state]).numpy().tobytes()).hexdigest())
"""


def test_the_process_that_compiles_computes_the_same_bits_as_those_that_find_the_machine_code(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", STEPS]
    one, two = (subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True) for _ in range(2))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert any(tmp_path.rglob("*.nbc"))
    assert one.stdout == two.stdout
