"""What backends are tried on: rows of pre-activations with all kinds of numbers, and entries with their gradients."""

import os
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.types import Coded, Entries, Part
from tasks.sae.parameters import Layout, Parameters, zeros

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether numpy runs Triton's kernels: the top k of a row take it 33 to 54 ms of CPU, so that problems are small."""
PRECISIONS = (torch.bfloat16, torch.float32, torch.float64)
SPECIAL = (0.0, -0.0, torch.inf, -torch.inf, 1e-40, -1e-40)
BOUNDS = (60, 200, 500)


def tries(usual: int) -> int:
    """How many examples hypothesis tries."""
    return usual // 60 if INTERPRETED else usual


@st.composite
def pre_activations(draw: st.DrawFn) -> Tensor:
    """Some rows of any width, with few or many ties, and with the numbers that are not like others."""
    width, levels = draw(st.integers(1, 700)), draw(st.sampled_from([1, 3, 1000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shift = draw(st.sampled_from([-2.0, 0.0, 2.0]))  # all negative, mixed, all positive
    pre_acts = torch.randint(-levels, levels + 1, (5, width), generator=generator) / levels + shift
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), pre_acts.shape, generator=generator)]
    rare = torch.rand(pre_acts.shape, generator=generator) < draw(st.sampled_from([0.0, 0.05]))
    return special.where(rare, pre_acts).to(draw(st.sampled_from(PRECISIONS)))


def by_row(entries: Entries) -> list[dict[int, float]]:
    entries = entries.without_padding()
    rows = [slice(a, b) for a, b in zip(entries.start[:-1].tolist(), entries.start[1:].tolist(), strict=True)]
    found = [dict(zip(entries.latents[row].tolist(), entries.values[row].tolist(), strict=True)) for row in rows]
    assert [len(latents) for latents in found] == [row.stop - row.start for row in rows]  # none twice
    return found


@dataclass
class Problem:
    """Rows with few and many entries, and what they have to rebuild in three nested prefixes."""

    part: Part
    W_dec: Tensor
    target: Tensor
    weight: Tensor

    def parameters(self) -> Parameters:
        """Zeros, of the decoder's size."""
        d_sae, d_out = self.W_dec.shape
        return zeros(Layout(self.part.x.shape[1], d_sae, d_out), self.W_dec.dtype, self.W_dec.device)

    def state(self) -> list[Parameters]:
        """Parameters with decoder rows of norm 1, and both moments."""
        state = [self.parameters() for _ in range(3)]
        state[0].W_dec.copy_(torch.nn.functional.normalize(self.W_dec))
        return state


def problem(
    ops: Backend, device: str, dtype: torch.dtype, n: int = 20 if INTERPRETED else 200, d_in: int = 37, d_out: int = 45
) -> Problem:
    generator, d_sae = torch.Generator().manual_seed(0), BOUNDS[-1]
    shapes = (n, d_in), (n, d_out), (n, d_sae), (d_sae, d_out)
    x, target, pre_acts, W_dec = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=dtype, device=device)
    entries = ops.select_top_k(pre_acts - torch.arange(d_sae, device=device) / d_sae, 19, dtype)
    rows = ops.decode_rows(target, Coded(entries, W_dec, BOUNDS), weight)
    return Problem(Part(entries, rows.d_values, rows.output_gradient, x, BOUNDS), W_dec, target, weight)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).double().norm()) <= tolerance * float(theirs.double().norm())
