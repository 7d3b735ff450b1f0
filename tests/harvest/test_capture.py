import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.activations.schema import DTYPES, Dtype, from_float32, to_float32
from tasks.errors import InputError
from tasks.harvest import capture, statistics
from tasks.harvest.capture import Captured, Subject, forward, rows
from tasks.harvest.commit import HookRows
from tasks.harvest.config import HarvestConfig
from tasks.harvest.side_stream import mark
from tasks.lm.engines.transformers_engine import TransformersEngine

CPU = "cpu"
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")])
HOOKS = ["model.layers.0", "model.layers.1.mlp:input"]
TOKENS = np.random.default_rng(0).integers(0, 50, (7, 6), dtype=np.int32)


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 50}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
    return Subject(TransformersEngine(model.eval()), "tiny", "main", special_token_ids=[0], padding_token_id=3)


def config(dtype: Dtype = "float32", **settings: object) -> HarvestConfig:
    return HarvestConfig.model_validate({"hooks": HOOKS, "dtype": dtype, "batch_sequences": 3, **settings})


def test_forward_and_rows_give_what_the_model_has_at_the_hook(subject: Subject) -> None:
    heard: list[int] = []
    captured = forward(subject, config(), TOKENS, heard.append)
    found = rows(subject, config(), "0" * 12, TOKENS, captured)
    with torch.no_grad():
        exact = subject.engine.model(torch.from_numpy(TOKENS.astype(np.int64)), output_hidden_states=True).hidden_states[1]
    kept = found[HOOKS[0]].rows
    assert kept.activation == pytest.approx(exact.numpy()[kept.sequence, kept.position], rel=1e-4, abs=1e-5)
    assert np.array_equal(kept.token_id, TOKENS[kept.sequence, kept.position])
    assert heard == [18, 18, 6]
    assert captured == {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_a_device_makes_of_activations_is_what_plain_numpy_makes(
    subject: Subject, dtype: Dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_CHUNK_ROWS", 8)
    monkeypatch.setattr(capture, "_ROWS_AT_ONCE", 4)
    numbers = np.random.default_rng(1)
    exact = numbers.normal(3, size=(TOKENS.size, 5)).astype(np.float32)
    exact[TOKENS.size - 1] *= 100  # an outlier
    there = Captured.empty(len(exact), 5, dtype, torch.device(device))
    for first in range(0, len(exact), 12):
        there.put(first, torch.from_numpy(exact[first : first + 12]).to(device), dtype)
    there.through = mark(torch.device(device))
    found = rows(subject, config(dtype), "0" * 12, TOKENS, {"x": there}, lambda n: np.arange(n)[::-1].copy())["x"]

    stored = from_float32(exact, dtype)
    values = to_float32(stored, dtype).astype(np.float64)
    kept = ~np.isin(TOKENS, [0, 3]) & (np.arange(6) > 0)
    kept[-1, -1] = False
    index = np.flatnonzero(kept)[::-1]
    assert np.array_equal(found.rows.activation, stored[index])
    assert np.array_equal(found.rows.token_id, TOKENS.reshape(-1)[index])
    assert np.array_equal(found.rows.sequence * 6 + found.rows.position, index)
    assert found.masked["norm_outlier"] == 1
    assert found.sums.count == len(index)
    assert found.sums.total == pytest.approx(values[index].sum(axis=0), rel=1e-12)
    assert found.sums.total_square_norm == pytest.approx((values[index] ** 2).sum(), rel=1e-12)
    assert found.sums.squared_error == pytest.approx(((exact - values)[index] ** 2).sum(), rel=1e-5)
    assert found.sums.position_norm == pytest.approx(np.linalg.norm(values, axis=1).reshape(-1, 6).sum(axis=0), rel=1e-6)


def test_sums_do_not_depend_on_the_order_in_which_rows_are_stored(subject: Subject) -> None:
    def found(order: Callable[[int], np.ndarray]) -> HookRows:
        captured = forward(subject, config(), TOKENS, lambda _: None)
        return rows(subject, config(), "0" * 12, TOKENS, captured, order)[HOOKS[1]]

    shuffle = np.random.default_rng(0).permutation
    plain, shuffled = found(np.arange), found(shuffle)
    assert not np.array_equal(plain.rows.activation, shuffled.rows.activation)
    order = np.random.default_rng(0).permutation(len(plain.rows))
    assert np.array_equal(plain.rows.take(order).activation, shuffled.rows.activation)
    assert plain.sums.to_json() == shuffled.sums.to_json()


def test_every_hook_says_of_all_its_tokens_what_became_of_them(subject: Subject) -> None:
    for hook in rows(subject, config(), "0" * 12, TOKENS, forward(subject, config(), TOKENS, lambda _: None)).values():
        assert len(hook.rows) + sum(hook.masked.values()) == TOKENS.size == hook.sums.position_count.sum()
        assert not np.isin(hook.rows.token_id, [0, 3]).any()
        assert hook.masked["first_position"] == len(TOKENS)


@pytest.mark.parametrize(("dtype", "largest"), [("bfloat16", 2e-5), ("float16", 2e-7), ("float32", 0), ("int8", 2e-4)])
def test_the_storage_error_is_that_against_the_models_own_numbers(subject: Subject, dtype: Dtype, largest: float) -> None:
    def kept(dtype: Dtype) -> tuple[np.ndarray, float]:
        settings = config(dtype, max_norm_multiple=None)
        captured = forward(subject, settings, TOKENS, lambda _: None)
        found = rows(subject, settings, "0" * 12, TOKENS, captured)[HOOKS[0]]
        return to_float32(found.rows.activation, dtype), found.sums.statistics()["storage_error"]

    exact, (stored, error) = kept("float32")[0], kept(dtype)
    variance = ((stored - stored.mean(axis=0, dtype=np.float64)) ** 2).sum()
    assert error == pytest.approx(((stored.astype(np.float64) - exact) ** 2).sum() / variance, rel=1e-4)
    assert (error > 0) == (largest > 0)
    assert error <= largest


@pytest.mark.parametrize(
    ("dtype", "number"), [("float16", 1e5), ("int8", np.nan), ("bfloat16", np.inf), ("float32", np.inf)]
)
def test_a_number_that_cannot_be_stored_is_an_error_that_names_the_remedy(
    subject: Subject, dtype: Dtype, number: float
) -> None:
    captured = forward(subject, config("float32"), TOKENS, lambda _: None)
    captured[HOOKS[0]].stored[5, 2] = number
    again = forward(subject, config(dtype), TOKENS, lambda _: None)
    again[HOOKS[0]].put(0, captured[HOOKS[0]].stored, dtype)
    with pytest.raises(InputError, match=rf"at {HOOKS[0]} is not finite in {dtype}. Set (harvest|model).dtype to"):
        rows(subject, config(dtype), "0" * 12, TOKENS, again)


# The process's addresses are limited to what it has after a small pass and some MiB more, so allocations really fail.
SCARCE = """
import json, resource, sys
import numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM
from tasks.errors import InputError
from tasks.harvest.capture import Subject, forward
from tasks.harvest.config import HarvestConfig
from tasks.lm.engines.transformers_engine import TransformersEngine

mebibytes, context_length = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 8192, "num_hidden_layers": 1, "vocab_size": 50}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()
tokens = np.random.default_rng(0).integers(0, 50, (4096 // context_length, context_length), dtype=np.int32)

def harvest(tokens, batch_sequences):
    heard = []
    config = HarvestConfig(hooks=["model.layers.0"], dtype="float32", batch_sequences=batch_sequences)
    subject = Subject(TransformersEngine(model), "", "", [])
    return forward(subject, config, tokens, heard.append)["model.layers.0"].stored.numpy(), heard

exact, _ = harvest(tokens.reshape(-1, 128), 4)
with open("/proc/self/statm") as statm:
    taken = int(statm.read().split()[0]) * resource.getpagesize()
limit = taken + mebibytes * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    found, heard = harvest(tokens, 32)
except InputError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"heard": heard, "difference": float(np.abs(found - exact).max() / np.abs(exact).max())}))
"""


def harvest_in(mebibytes: int, context_length: int) -> tuple[dict[str, Any], str]:
    """What a harvest of 4,096 tokens, in 32 sequences at once, says that has so much memory left."""
    command = [sys.executable, "-c", SCARCE, str(mebibytes), str(context_length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_harvest_that_runs_out_of_memory_goes_on_with_smaller_batches() -> None:
    said, warned = harvest_in(mebibytes=150, context_length=128)
    assert "out of memory with 32 sequences per forward pass; going on with 16" in warned
    assert sum(said["heard"]) == 4096
    assert max(said["heard"]) <= 16 * 128
    assert said["difference"] < 1e-5


def test_a_harvest_without_memory_for_one_sequence_says_so() -> None:
    said, _ = harvest_in(mebibytes=20, context_length=4096)
    assert "no memory for a forward pass over one sequence of 4096 tokens. Lower text.context_length" in said["error"]
