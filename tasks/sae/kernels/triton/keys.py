"""Numbers as integers that sort in their order, and the k-th largest of some of them without sorting."""

from typing import Any, NamedTuple, no_type_check

import torch
from triton import language as tl

from tasks.sae.kernels.triton.jit import kernel


class Precision(NamedTuple):
    """How a precision's numbers are read as integers."""

    bits: torch.dtype
    """The integer of the same size."""
    n_bits: int
    """Of a positive number: all but the sign's."""
    infinity: int
    """The integer of infinity's bits; what is above is NaN."""
    key: Any
    """What kernels compute with."""


PRECISIONS = {
    torch.bfloat16: Precision(torch.int16, 15, 0x7F80, tl.int32),
    torch.float32: Precision(torch.int32, 31, 0x7F80_0000, tl.int32),
    torch.float64: Precision(torch.int64, 63, 0x7FF0_0000_0000_0000, tl.int64),
}


@kernel
@no_type_check
def keys_at(row, columns, place, width, INFINITY: tl.constexpr, N_BITS: tl.constexpr, KEY: tl.constexpr):
    """Keys of a row's numbers, by columns if these are named: the integers of positive ones, the largest for NaN, else 0."""
    there = place < width
    column = place
    if columns is not None:
        column = tl.load(columns + place, mask=there, other=0)
    bits = tl.load(row + column, mask=there, other=0).to(KEY)
    largest: tl.constexpr = (1 << N_BITS) - 1
    key = tl.where((bits & largest) > INFINITY, largest, bits)
    return tl.where(key > 0, key, 0).to(KEY)


@kernel
@no_type_check
def number_of(key, N_BITS: tl.constexpr):
    """The number that a key is of; in float32 if it is a bfloat16."""
    if N_BITS == 63:
        number = key.to(tl.float64, bitcast=True)
    elif N_BITS == 31:
        number = key.to(tl.float32, bitcast=True)
    else:
        number = (key << 16).to(tl.float32, bitcast=True)
    return number


@kernel
@no_type_check
def kth_largest(keys, k, N_BITS: tl.constexpr, KEY: tl.constexpr):
    """The k-th largest key, found bit by bit: the largest number that k keys reach; 0 where fewer than k are above 0."""
    level = tl.full([], 0, KEY)
    one = tl.full([], 1, KEY)
    for bit in range(N_BITS):
        higher = level | (one << (N_BITS - 1 - bit))
        n_reach = tl.sum((keys >= higher).to(tl.int32), 0)
        level = tl.where(n_reach >= k, higher, level)
    return level
