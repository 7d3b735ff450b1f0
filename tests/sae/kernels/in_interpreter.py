"""What the Triton backend alone promises, by its interpreter; ``test_triton.py`` runs this file in a process of its own."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.sae.config import SAEConfig
from tasks.sae.kernels import dispatch
from tasks.sae.kernels.backend import Backend, SelectsOfBatch
from tasks.sae.kernels.torch_reference import TorchBackend
from tasks.sae.kernels.triton import BACKEND, grouping, select
from tasks.sae.kernels.triton.backend import TritonBackend
from tasks.sae.kernels.types import AdamStep, AddedGradients, Copies, Entries, Part
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Layout, Parameters, view
from tasks.sae.scaling import Scaling
from tasks.sae.weight_copies import WeightCopies
from tasks.train.config import TrainConfig
from tasks.train.plan import plan
from tasks.train.step import train_step
from tasks.train.train_state import initial_state
from tests.sae.kernels.problems import PRECISIONS, assert_close, by_row

CHUNK = 16
N, D_SAE, D_IN, D_OUT = 2 * CHUNK + 9, 9, 5, 7


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def skewed(seed: int = 0) -> Part:
    """Latent 2 is active in all rows, so it is three chunks; 4 in as many as a chunk has, 7 in one more, and 0 in none."""
    active = torch.zeros(N, D_SAE, dtype=torch.bool)
    active[:, 2], active[:CHUNK, 4], active[-CHUNK - 1 :, 7], active[::10, 8] = True, True, True, True
    _, latents = active.nonzero(as_tuple=True)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), active.sum(1).cumsum(0)])
    entries = Entries(randn(len(latents), seed=seed), latents.int(), start)
    return Part(entries, None, randn(N, D_OUT, seed=seed + 1), randn(N, D_IN, seed=seed + 2), (D_SAE,))


def parameters(seed: int) -> Parameters:
    layout = Layout(D_IN, D_SAE, D_OUT)
    return view(randn(layout.size, seed=seed).abs(), layout)


def adams_step(backend: Backend, parts: list[Part], unit_norm: bool = True) -> list[Tensor]:
    state = [parameters(seed) for seed in (5, 6, 7)]
    settings = AdamStep(lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=3, unit_norm=unit_norm)
    square = backend.by_latent(parts, (0, D_SAE), AddedGradients(randn(D_SAE, seed=8))).adam(*state, settings)
    return [square, *(part.flat for part in state)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "CHUNK", CHUNK)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("n_parts", [1, 2])
def test_a_latent_with_more_entries_than_a_chunk_gets_the_same_sums(n_parts: int) -> None:
    parts = [skewed(seed) for seed in range(0, 10 * n_parts, 10)]
    assert int(parts[0].entries.latents.bincount().max()) > 2 * CHUNK
    W_dec, ours, theirs = parameters(3).W_dec, parameters(4), parameters(4)
    for backend, out in ((BACKEND, ours), (TorchBackend(), theirs)):
        backend.by_latent(parts, (0, D_SAE)).write(W_dec, out)
    assert_close(ours.flat, theirs.flat, 1e-13)
    for mine, torchs in zip(adams_step(BACKEND, parts), adams_step(TorchBackend(), parts), strict=True):
        assert_close(mine, torchs, 1e-12)


@pytest.mark.usefixtures("small_chunks")
def test_the_same_bits_come_again() -> None:
    first, second = (adams_step(BACKEND, [skewed()]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("names", [("encoder",), ("encoder", "W_dec")])
def test_an_update_writes_copies_in_bfloat16_of_all_latents(names: tuple[str, ...]) -> None:
    part = skewed()  # latents of no, one and several chunks
    entries = Entries(part.entries.values.float(), part.entries.latents, part.entries.start)
    part = Part(entries, None, part.output_gradient.float(), part.x.float(), part.bounds)
    state = [view(parameters(seed).flat.float(), Layout(D_IN, D_SAE, D_OUT)) for seed in (5, 6, 7)]
    copies = Copies(**{name: torch.full_like(getattr(state[0], name), torch.nan, dtype=torch.bfloat16) for name in names})
    settings = AdamStep(lr=0.1, betas=(0.9, 0.99), eps=1e-8, step=3, unit_norm=True, copies=copies)
    BACKEND.by_latent([part], (0, D_SAE)).adam(*state, settings)
    for name in names:
        assert torch.equal(getattr(copies, name), getattr(state[0], name).bfloat16())


@pytest.mark.parametrize(("arch", "settings"), [("topk", {}), ("matryoshka", {}), ("topk", {"max_grad_norm": 0.5})])
def test_a_step_in_bfloat16_reads_copies_of_what_the_weights_are(
    arch: str, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_chosen", lambda device, dtype: BACKEND)
    found: list[tuple[bool, bool]] = []
    of = WeightCopies._of

    def noted(self: WeightCopies, name: str, weights: Tensor) -> Tensor:
        before = self._at.get(name)
        copy = of(self, name, weights)
        found.append((before == self._at[name], torch.equal(copy, weights.bfloat16())))
        return copy

    monkeypatch.setattr(WeightCopies, "_of", noted)
    trained(arch, n_rows=8, precision="bf16", **settings)
    assert all(is_copy for _, is_copy in found)
    was_written = [written for written, _ in found]
    assert was_written == ([False, False, True, True] if not settings else [False] * 4), "encoder, W_dec, and again"


def test_columns_beyond_65536_are_selected_as_any_other() -> None:
    pre_acts = -torch.rand(1, 66_000, generator=torch.Generator().manual_seed(0))
    pre_acts[0, [5, 65_535, 65_536, 65_999]] = torch.tensor([1.0, 3.0, 2.0, 4.0])
    (found,) = by_row(BACKEND.select_top_k(pre_acts.bfloat16(), 3, torch.float32))
    assert found == {65_999: 4.0, 65_535: 3.0, 65_536: 2.0}


@pytest.mark.parametrize(
    ("k", "width"),
    [(1, 700), (7, 1500), (2050, 2100)],  # more ties than there is room for; more columns than a block; too many for groups
)
def test_where_candidates_have_no_room_the_row_is_looked_at_again(k: int, width: int) -> None:
    pre_acts = torch.full((2, width), 0.5)
    pre_acts[0, [3, width - 1]] = torch.tensor([1.0, 2.0])
    pre_acts[1, ::2] = -1.0
    upper, ties = by_row(BACKEND.select_top_k(pre_acts, k, torch.float32))
    assert sorted(upper.values(), reverse=True) == ([2.0, 1.0] + [0.5] * width)[:k]
    assert list(ties.values()) == [0.5] * min(k, width // 2)


def of_batch(pre_acts: Tensor, count: int) -> list[dict[int, float]]:
    """By definition: of all rows sorted together, in which equals stay in their order, the first that are positive."""
    width = pre_acts.shape[1]
    order = pre_acts.double().flatten().sort(descending=True, stable=True).indices[:count].tolist()
    found = [dict[int, float]() for _ in pre_acts]
    for place in order:
        number = float(pre_acts[place // width, place % width])
        if not number <= 0:
            found[place // width][place % width] = number
    return found


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("levels", [2, 100_000])  # many equal numbers, and few
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])  # one number, some, more than one digit tells apart, all
def test_the_largest_of_a_batch_are_those_of_the_definition(dtype: torch.dtype, levels: int, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    pre_acts = (torch.randint(-levels, levels + 1, (3, 1100), generator=generator) / levels).to(dtype)
    pre_acts[1] = -1.0  # a row without any
    count = max(1, int(share * pre_acts.numel()))
    entries = BACKEND.select_of_batch(pre_acts, count, torch.float64)
    assert by_row(entries) == of_batch(pre_acts, count)
    assert entries.latents.dtype == torch.int32
    assert all(latents == sorted(latents) for latents in ([*row] for row in by_row(entries)))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_largest_of_a_batch_among_numbers_that_are_not_like_others(dtype: torch.dtype) -> None:
    special = [0.0, -0.0, torch.inf, -torch.inf, 1e-38, -1e-38, 1.0, 1.0, 3.0, torch.nan]
    pre_acts = torch.tensor([special[:5], special[5:]]).to(dtype)
    (first, second) = by_row(BACKEND.select_of_batch(pre_acts, 3, torch.float32))
    assert (first, list(second)) == ({2: torch.inf}, [3, 4])
    assert second[3] == 3.0
    assert second[4] != second[4], "a NaN, the largest of all"
    found = [BACKEND.select_of_batch(pre_acts, count, torch.float32) for count in (0, 1, 4, 6, 10)]
    counts = [entries.without_padding().start.tolist() for entries in found]
    assert counts == [[0, 0, 0], [0, 0, 1], [0, 1, 4], [0, 2, 6], [0, 2, 6]]
    kept = by_row(BACKEND.select_of_batch(pre_acts, 4, torch.float32))[1]
    assert [*kept] == [1, 3, 4], "of the two ones the first"
    assert len(BACKEND.select_of_batch(pre_acts[:0], 5, torch.float32).values) == 0
    assert int(BACKEND.select_of_batch(-pre_acts[:1, :2], 2, torch.float32).count) == 0


def test_a_look_at_many_numbers_is_shared_by_some_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    pre_acts = torch.rand(5, 1100, generator=torch.Generator().manual_seed(0)).bfloat16()
    alone = BACKEND.select_of_batch(pre_acts, 777, torch.float32)
    monkeypatch.setattr(select, "_PROGRAMS", 4)  # 6 blocks: of two each, and one program less
    assert by_row(BACKEND.select_of_batch(pre_acts, 777, torch.float32)) == by_row(alone) == of_batch(pre_acts, 777)


def test_batchtopk_takes_the_largest_of_its_batch_at_once_only_where_all_rows_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(BACKEND, SelectsOfBatch)
    assert not isinstance(TorchBackend(), SelectsOfBatch)
    counts: list[int] = []
    at_once = TritonBackend.select_of_batch

    def noted(self: TritonBackend, pre_acts: Tensor, count: int, dtype: torch.dtype) -> Entries:
        counts.append(count)
        return at_once(self, pre_acts, count, dtype)

    monkeypatch.setattr(dispatch, "_chosen", lambda device, dtype: BACKEND)
    monkeypatch.setattr(TritonBackend, "select_of_batch", noted)
    whole, blocks = trained("batchtopk", 1, 8), trained("batchtopk", 1, 8, most_rows=5)
    assert counts == [3 * 8], "of the first, but not of that in blocks"
    assert_close(blocks, whole, 1e-5)


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize("k", [3, 12])  # with 12 many rows have fewer positive ones, so that zeros fill them up
def test_training_goes_the_way_that_it_goes_in_plain_torch(arch: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for backend in (BACKEND, TorchBackend()):
        monkeypatch.setattr(dispatch, "_chosen", lambda device, dtype, backend=backend: backend)
        found.append(trained(arch, k=k))
    assert_close(found[0], found[1], 1e-4)


class Questions(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: asking for a number, and results whose size only numbers tell."""

    asked: list[str]
    """The operations that did."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(part is not None and part.dtype == torch.bool for part in args[1])
        repeats = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if masks or repeats or name in ("nonzero", "masked_select", "unique_dim", "_unique2", "_local_scalar_dense"):
            self.asked.append(name)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize("n_dead", [0, 4])
def test_a_step_asks_for_nothing_but_the_number_of_dead_latents(
    arch: str, n_dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_chosen", lambda device, dtype: BACKEND)
    monkeypatch.setattr(Tensor, "tolist", not_here)
    questions = Questions()
    trained(arch, 1, n_dead=n_dead, watch=questions)
    assert questions.asked == ["_local_scalar_dense"]


def not_here(numbers: Tensor) -> None:
    raise AssertionError("a GPU would be waited for")


def trained(
    arch: str,
    n_steps: int = 2,
    n_rows: int = 16,
    most_rows: int | None = None,
    n_dead: int = 4,
    k: int = 3,
    watch: AbstractContextManager[Any] | None = None,
    **settings: Any,
) -> Tensor:
    """The change of all weights in some steps, with dead latents; ``most_rows`` of a step at once."""
    rows = torch.randn(n_steps, n_rows, 6, generator=torch.Generator().manual_seed(0))
    config = SAEConfig(arch=arch, d_in=6, d_sae=16, k=k)
    train = TrainConfig(**{"tokens": 16 * 1000, "batch_tokens": 16, "dead_after_tokens": 16, "precision": "fp32"} | settings)
    resolved = plan(config, train, 6)
    state = initial_state(resolved, rows[0])
    state.silent[:n_dead] = 100  # these are dead
    state.scratch.most_rows = most_rows
    before = state.parameters.flat.clone()
    with watch or nullcontext():
        for batch in rows:
            train_step(state, batch, resolved, Scaling(torch.zeros(6), torch.ones(6)), OneProcess())
    return state.parameters.flat - before
