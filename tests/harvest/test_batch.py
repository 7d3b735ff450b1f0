"""The search for the number of sequences that go through the model at once."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import tasks.harvest.capture
from tasks.errors import InputError
from tasks.harvest.batch import FIRST, Batch, memory_holds_twice
from tasks.harvest.capture import Subject, forward
from tasks.harvest.config import HarvestConfig

CONTEXT = 4
CPU = torch.device("cpu")


class Device:
    """Stands in for a model that takes as long as it is said to, and runs out of memory when it is said to."""

    device = CPU

    def __init__(self, seconds: Callable[[int], float], holds: int = 10**9, others_from: int = 10**9) -> None:
        self.now, self.tried = 0.0, list[int]()
        self._seconds, self._holds, self._others_from = seconds, holds, others_from

    def perf_counter(self) -> float:
        return self.now

    def hidden(self, hooks: list[str], ids: torch.Tensor) -> Mapping[str, torch.Tensor]:
        self.tried.append(len(ids))
        if len(ids) > self._holds:
            raise torch.OutOfMemoryError
        self.now += self._seconds(len(ids))
        found = ids[..., None].float()
        return dict.fromkeys(hooks, found if len(ids) < self._others_from else found.nextafter(found + 1))


def tried(monkeypatch: pytest.MonkeyPatch, device: Device, shards: list[int], **settings: int) -> list[int]:
    """Sizes of the passes over shards of so many sequences; every sequence has to come out once, in order."""
    monkeypatch.setattr(tasks.harvest.capture, "time", device)
    subject: Any = Subject(engine=device, name="", revision="", special_token_ids=[])
    for n in shards:
        token_ids = np.arange(n * CONTEXT, dtype=np.int32).reshape(n, CONTEXT)
        config = HarvestConfig.model_validate({"hooks": ["x"], "dtype": "float32", **settings})
        stored = torch.as_tensor(forward(subject, config, token_ids, lambda _: None)["x"].stored)
        assert stored.flatten().tolist() == token_ids.flatten().tolist()
    return device.tried


def full_at(sequences: int) -> Callable[[int], float]:
    """Seconds of a device that takes as long for fewer sequences as for so many."""
    return lambda n: max(1.0, n / sequences)


def test_sequences_are_doubled_until_that_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tried(monkeypatch, Device(full_at(32)), [1024])
    assert sizes[:15] == [8] * 3 + [16, 8] + [16] * 2 + [32, 8] + [32] * 2 + [64, 8] + [64] * 2
    assert set(sizes[15:-1]) == {32}, "twice as many took twice as long"


@pytest.mark.parametrize("others_from", [16, 32])
def test_on_a_cpu_no_size_is_taken_that_gives_other_bits(monkeypatch: pytest.MonkeyPatch, others_from: int) -> None:
    device = Device(full_at(64), others_from=others_from)
    sizes = tried(monkeypatch, device, [1024])
    assert max(sizes) == others_from
    assert sizes.count(others_from) == 1
    assert set(sizes[sizes.index(others_from) + 2 : -1]) == {others_from // 2}


def test_where_the_first_size_is_the_fastest_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(tried(monkeypatch, Device(full_at(1)), [128])[7:]) == {FIRST}


def test_a_single_disturbed_pass_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(lambda n: 5.0 if len(device.tried) in (1, 6, 12) else 1.0)
    assert max(tried(monkeypatch, device, [1024])) == 256


def test_no_more_are_tried_than_a_shard_has(monkeypatch: pytest.MonkeyPatch) -> None:
    full = 20 * CONTEXT
    assert max(tried(monkeypatch, Device(full_at(64)), [20] * 9, shard_tokens=full)) == 16
    assert tried(monkeypatch, Device(full_at(64)), [5, 5], shard_tokens=full) == [5, 5]


def test_a_small_shard_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried(monkeypatch, Device(full_at(64)), [9] * 3 + [2048])[-2] == 64


def test_where_memory_ends_half_as_many_are_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tried(monkeypatch, Device(full_at(64), holds=20), [256, 256])
    assert sizes[:9] == [8] * 3 + [16, 8] + [16] * 2 + [32, 16]
    assert set(sizes[9:]) <= {16, 8}


def test_a_number_in_the_settings_is_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried(monkeypatch, Device(full_at(64)), [30], batch_sequences=12) == [12, 12, 6]


def test_on_a_cpu_a_pass_grows_to_some_thousand_tokens() -> None:
    assert memory_holds_twice(CPU, 4096)
    assert not memory_holds_twice(CPU, 4097)


def test_a_batch_that_does_not_fit_is_halved_down_to_one_sequence() -> None:
    batch = Batch()
    assert batch.sequences(8) == 8
    batch.halve(8, 100)
    assert batch.sequences(8) == batch.sequences(None) == 4
    assert batch.sequences(2) == 2
    batch.halve(3, 100)
    assert batch.sequences(8) == 1
    with pytest.raises(InputError, match="no memory for a forward pass over one sequence of 100 tokens"):
        batch.halve(1, 100)
