"""The Triton backend without a GPU: its kernels by Triton's interpreter, and compiled for one."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.sae.kernels.backend import Backend, SelectsOfBatch
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.types import NO_COPIES, AdamStep, Coded, Copies
from tests.conftest import ROOT
from tests.sae.kernels.problems import INTERPRETED, problem
from tests.sampled import sampled

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

FILES = ("test_contract.py", "test_selection.py", "in_interpreter.py")


def test_the_contract_holds_in_tritons_interpreter() -> None:
    """In a process of its own, as kernels are defined for the interpreter or for GPUs."""
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not largest_of_all_parts", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 20
    assert "skipped" not in done.stdout


Launch = tuple[Any, dict[str, Any], int]
"""A kernel, its arguments by name, and the number of its warps."""


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Launch]]:
    """What would be started: nothing is, and all counts stay 0."""
    from triton.runtime.jit import JITFunction

    found: list[Launch] = []

    def run(self: Any, *tensors: Any, grid: Any, warmup: bool, num_warps: int, **constants: Any) -> None:
        arguments = inspect.signature(self.fn).bind(*tensors, **constants).arguments
        if "counts" in arguments:
            arguments["counts"].zero_()
        found.append((self, arguments, num_warps))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", run)
    yield found


@pytest.mark.skipif(INTERPRETED, reason="kernels are defined for the interpreter")
def test_every_kernel_compiles_for_a_card(launches: list[Launch]) -> None:
    from tasks.sae.kernels.triton import BACKEND

    take_all_steps(BACKEND)
    names = {kernel.fn.__name__ for kernel, _, _ in launches}
    assert names == {
        "top_of_rows",
        "count_digits",
        "settle_digit",
        "count_reaching",
        "write_reaching",
        "count_above",
        "write_above",
        "decode_and_compare",
        "decode_each_group",
        "products",
        "sum_chunks",
        "finish_long",
    }
    for kernel, arguments, num_warps in sampled(launches, kind=lambda launch: launch[0].fn.__name__):
        assert machine_code(kernel, arguments, num_warps)


def take_all_steps(backend: Backend) -> None:
    """What a step on bfloat16 pre-activations asks for, with one prefix and with several."""
    for dtype in (torch.bfloat16, torch.float32):
        backend.select_top_k(torch.zeros(2, 3000, dtype=dtype), 32, torch.float32)
        if isinstance(backend, SelectsOfBatch):
            backend.select_of_batch(torch.zeros(2, 3000, dtype=dtype), 64, torch.float32)
    backend.select_columns(torch.zeros(2, 3000, dtype=torch.bfloat16), torch.arange(9), 4, torch.float32)
    backend.select_above(torch.zeros(2, 3000, dtype=torch.bfloat16), 0.5, torch.float32)
    at = problem(TorchBackend(), "cpu", torch.float32)
    coded = Coded(at.part.entries, at.W_dec, at.part.bounds)
    backend.decode_rows(at.target, coded, at.weight)
    backend.decode_rows(at.target, replace(coded, bounds=(len(at.W_dec),)), at.weight[:1], pull=False)
    backend.decode_groups(coded)
    backend.by_latent([at.part], (0, len(at.W_dec))).write(at.W_dec, at.parameters())
    copies = Copies(*(torch.empty_like(weights, dtype=torch.bfloat16) for weights in (at.parameters().encoder, at.W_dec)))
    backend.decode_rows(at.target, Coded(at.part.entries, at.W_dec.bfloat16(), at.part.bounds), at.weight, pull=False)
    for chosen in (NO_COPIES, copies):
        settings = AdamStep(lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=1, unit_norm=True, copies=chosen)
        backend.by_latent([replace(at.part, d_values=None)], (0, len(at.W_dec))).adam(*at.state(), settings)


def machine_code(kernel: Any, arguments: dict[str, Any], num_warps: int) -> bytes:
    """Of a Hopper GPU, by ptxas, which the package brings."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
    types |= {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}
    constant = {name for name in arguments if name.isupper()}
    constant |= {name for name, value in arguments.items() if value is None}
    signature = {
        name: "constexpr" if name in constant else f"*{types[value.dtype]}" if isinstance(value, Tensor) else "i32"
        for name, value in arguments.items()
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs={name: arguments[name] for name in constant})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    code: bytes = compiled.asm["cubin"]
    return code
