"""The largest numbers of many rows together: the exact level of the last of them, digit by digit, then what reaches it.

Positive numbers sort like the integers of their bits (``keys``). A look at all of them counts how many have each value of
the next 8 bits, which settles these bits of the level (a radix select, https://doi.org/10.1145/2133803.2345676): bfloat16
takes two looks, float32 four. Counts are whole numbers, so that the order in which programs add them changes nothing.
"""

from typing import no_type_check

from triton import language as tl

from tasks.sae.kernels.triton.jit import kernel
from tasks.sae.kernels.triton.keys import keys_at
from tasks.sae.kernels.triton.top import write_top


@kernel
@no_type_check
def count_digits(
    bits,
    level,
    counts,
    n_numbers,
    span,
    SHIFT: tl.constexpr,
    DIGIT: tl.constexpr,
    BLOCK: tl.constexpr,
    INFINITY: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """A stretch of ``span`` numbers a program: of keys that begin like ``level``, how many have each next digit.

    A digit is the DIGIT bits above the lowest SHIFT. Sums over programs go to ``counts`` [2^DIGIT].
    """
    bins: tl.constexpr = 1 << DIGIT
    low = tl.program_id(0).to(tl.int64) * span
    high = tl.minimum(low + span, n_numbers)
    beginning = tl.load(level) >> SHIFT >> DIGIT
    n_of = tl.zeros((bins,), tl.int32)
    for first in range(low, high, BLOCK):
        key = keys_at(bits, None, first + tl.arange(0, BLOCK), high, INFINITY, N_BITS, KEY)
        rest = key >> SHIFT
        alike = (key > 0) & ((rest >> DIGIT) == beginning)
        n_of += tl.histogram((rest & (bins - 1)).to(tl.int32), bins, alike)
    tl.atomic_add(counts + tl.arange(0, bins), n_of.to(tl.int64))


@kernel
@no_type_check
def settle_digit(counts, level, rank, SHIFT: tl.constexpr, DIGIT: tl.constexpr, KEY: tl.constexpr):
    """One program: put the next digit into ``level``, and take from ``rank`` the keys that are above it by this digit.

    The level is the key of this rank, the first being 1, among those that begin like it. Where there are fewer, its digit
    is 0: in the end it is 0, which every positive number exceeds.
    """
    bins: tl.constexpr = 1 << DIGIT
    digit = tl.arange(0, bins)
    n_of = tl.load(counts + digit)
    wanted = tl.load(rank)
    n_reach = tl.sum(n_of, 0) - tl.cumsum(n_of, 0) + n_of
    found = tl.maximum(tl.sum((n_reach >= wanted).to(tl.int32), 0) - 1, 0)
    tl.store(rank, wanted - tl.sum(tl.where(digit > found, n_of, 0), 0))
    tl.store(level, tl.load(level) | (found.to(KEY) << SHIFT))


@kernel
@no_type_check
def count_reaching(
    bits,
    level,
    counts,
    n,
    width,
    BLOCK: tl.constexpr,
    INFINITY: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """A row a program: how many keys are above the level, in the first row of ``counts`` [2, n], and how many at it."""
    r = tl.program_id(0).to(tl.int64)
    found = tl.load(level)
    n_above, n_tied = 0, 0
    for first in range(0, width, BLOCK):
        key = keys_at(bits + r * width, None, first + tl.arange(0, BLOCK), width, INFINITY, N_BITS, KEY)
        n_above += tl.sum((key > found).to(tl.int32), 0)
        n_tied += tl.sum(((key == found) & (key > 0)).to(tl.int32), 0)
    tl.store(counts + r, n_above)
    tl.store(counts + n + r, n_tied)


@kernel
@no_type_check
def write_reaching(
    bits,
    level,
    start,
    n_ties,
    values,
    latents,
    width,
    BLOCK: tl.constexpr,
    INFINITY: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """A row a program: from ``start`` on write what is above the level, and of what is at it the first ``n_ties``."""
    r = tl.program_id(0).to(tl.int64)
    to = tl.load(start + r)
    found = tl.load(level)
    ties = tl.load(n_ties + r)
    n_kept, n_tied = 0, 0
    for first in range(0, width, BLOCK):
        place = first + tl.arange(0, BLOCK)
        key = keys_at(bits + r * width, None, place, width, INFINITY, N_BITS, KEY)
        n_kept, n_tied = write_top(key, place, None, values + to, latents + to, found, ties, n_kept, n_tied, N_BITS)
