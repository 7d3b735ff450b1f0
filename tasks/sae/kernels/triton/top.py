"""The k largest positive numbers of each row: a bound from maxima of groups, then a choice among what reaches the bound."""

from typing import no_type_check

from triton import language as tl

from tasks.sae.kernels.triton.jit import kernel
from tasks.sae.kernels.triton.keys import keys_at, kth_largest, number_of


@kernel
@no_type_check
def top_of_rows(
    bits,
    columns,
    room_keys,
    room_places,
    values,
    latents,
    width,
    stride,
    k,
    GROUPED: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
    INFINITY: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """A row a program: write up to k values and latents, in the order of columns.

    Candidates go to ``room_keys`` and ``room_places`` [n, ROOM]. Where these have not enough room, as with many ties, the
    row is looked at again, bit by bit.
    """
    r = tl.program_id(0).to(tl.int64)
    row, room_keys, room_places = bits + r * stride, room_keys + r * ROOM, room_places + r * ROOM
    values, latents = values + r * k, latents + r * k
    n_found = ROOM + 1
    if GROUPED:
        n_found = _candidates(row, columns, room_keys, room_places, width, k, ROOM, BLOCK, INFINITY, N_BITS, KEY)
    if n_found <= ROOM:
        _top_of_room(room_keys, room_places, columns, values, latents, n_found, k, ROOM, N_BITS, KEY)
    else:
        _top_of_row(row, columns, values, latents, width, k, BLOCK, INFINITY, N_BITS, KEY)


@kernel
@no_type_check
def _candidates(
    row,
    columns,
    room_keys,
    room_places,
    width,
    k,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
    INFINITY: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """Write all keys that reach the k-th largest maximum of BLOCK groups, k of which at least do; how many there are."""
    lane = tl.arange(0, BLOCK)
    best = tl.zeros((BLOCK,), KEY)
    for first in range(0, width, BLOCK):
        best = tl.maximum(best, keys_at(row, columns, first + lane, width, INFINITY, N_BITS, KEY))
    level = tl.maximum(kth_largest(best, k, N_BITS, KEY), 1)
    n_found = 0
    for first in range(0, width, BLOCK):
        key = keys_at(row, columns, first + lane, width, INFINITY, N_BITS, KEY)
        keep = (key >= level).to(tl.int32)
        n_here = tl.sum(keep, 0)
        if n_here > 0:  # most blocks have none
            to = n_found + tl.cumsum(keep, 0) - 1
            fits = (keep > 0) & (to < ROOM)
            tl.store(room_keys + to, key, mask=fits)
            tl.store(room_places + to, first + lane, mask=fits)
            n_found += n_here
    tl.debug_barrier()  # other threads of the program read these
    return n_found


@kernel
@no_type_check
def _top_of_room(
    room_keys,
    room_places,
    columns,
    values,
    latents,
    n_found,
    k,
    ROOM: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """Choose among the candidates."""
    slot = tl.arange(0, ROOM)
    key = tl.load(room_keys + slot, mask=slot < n_found, other=0)
    place = tl.load(room_places + slot, mask=slot < n_found, other=0)
    level = kth_largest(key, k, N_BITS, KEY)
    n_above = tl.sum((key > level).to(tl.int32), 0)
    write_top(key, place, columns, values, latents, level, k - n_above, 0, 0, N_BITS)


@kernel
@no_type_check
def _top_of_row(
    row,
    columns,
    values,
    latents,
    width,
    k,
    BLOCK: tl.constexpr,
    INFINITY: tl.constexpr,
    N_BITS: tl.constexpr,
    KEY: tl.constexpr,
):
    """Choose among all numbers of the row, which are read once for each bit."""
    lane = tl.arange(0, BLOCK)
    level = tl.full([], 0, KEY)
    one = tl.full([], 1, KEY)
    for bit in range(N_BITS):
        higher = level | (one << (N_BITS - 1 - bit))
        n_reach = 0
        for first in range(0, width, BLOCK):
            key = keys_at(row, columns, first + lane, width, INFINITY, N_BITS, KEY)
            n_reach += tl.sum((key >= higher).to(tl.int32), 0)
        level = tl.where(n_reach >= k, higher, level)
    n_above = 0
    for first in range(0, width, BLOCK):
        key = keys_at(row, columns, first + lane, width, INFINITY, N_BITS, KEY)
        n_above += tl.sum((key > level).to(tl.int32), 0)
    n_kept, n_tied = 0, 0
    for first in range(0, width, BLOCK):
        place = first + lane
        key = keys_at(row, columns, place, width, INFINITY, N_BITS, KEY)
        n_kept, n_tied = write_top(key, place, columns, values, latents, level, k - n_above, n_kept, n_tied, N_BITS)


@kernel
@no_type_check
def write_top(key, place, columns, values, latents, level, n_ties, n_kept, n_tied, N_BITS: tl.constexpr):
    """Write what is above ``level`` and, of what is at it, as much as makes ``n_ties``; how many there are now of both."""
    tie = ((key == level) & (key > 0)).to(tl.int32)
    keep = ((key > level) | ((tie > 0) & (n_tied + tl.cumsum(tie, 0) <= n_ties))).to(tl.int32)
    to = n_kept + tl.cumsum(keep, 0) - 1
    latent = place
    if columns is not None:
        latent = tl.load(columns + place, mask=keep > 0, other=0)
    tl.store(latents + to, latent.to(tl.int32), mask=keep > 0)
    tl.store(values + to, number_of(key, N_BITS).to(values.dtype.element_ty), mask=keep > 0)
    return n_kept + tl.sum(keep, 0), n_tied + tl.sum(tie, 0)
