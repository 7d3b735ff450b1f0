from itertools import pairwise

import numpy as np
import pytest
import torch

from tasks.encode.codes import CSRCodes, TensorCodes

DENSE = torch.tensor([[0.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0], [0.0, 0.0, 4.0]])


def parts_of(codes: CSRCodes) -> tuple[list[int], list[int], list[float]]:
    return codes.offsets.tolist(), codes.latents.tolist(), codes.values.tolist()


def test_a_rows_entries_are_its_codes_above_0_by_latent() -> None:
    codes = TensorCodes.of_dense(DENSE).in_main_memory()
    assert parts_of(codes) == ([0, 2, 2, 3, 4], [1, 2, 0, 2], [2.0, 0.5, 1.0, 4.0])
    assert len(codes) == 4
    assert codes.counts.tolist() == [2, 0, 1, 1]
    assert codes.rows.tolist() == [0, 0, 2, 3]


def test_k_kept_latents_in_any_order_are_the_same_codes_as_with_a_column_for_each() -> None:
    latents = torch.tensor([[2, 1], [0, 2], [1, 0], [2, 0]])
    found = TensorCodes.of_kept(DENSE.relu().gather(1, latents), latents).in_main_memory()
    assert parts_of(found) == parts_of(TensorCodes.of_dense(DENSE).in_main_memory())


@pytest.mark.parametrize("ends", [[], [1], [0, 2, 2, 3]])
def test_codes_of_parts_join_to_those_of_the_whole(ends: list[int]) -> None:
    bounds = [0, *ends, len(DENSE)]
    parts = [TensorCodes.of_dense(DENSE[a:b]).in_main_memory() for a, b in pairwise(bounds)]
    assert parts_of(CSRCodes.joined(parts)) == parts_of(TensorCodes.of_dense(DENSE).in_main_memory())


def test_no_rows_have_no_codes() -> None:
    assert parts_of(CSRCodes.joined([])) == parts_of(TensorCodes.of_dense(DENSE[:0]).in_main_memory()) == ([0], [], [])
    assert CSRCodes.joined([]).latents.dtype == np.int32
