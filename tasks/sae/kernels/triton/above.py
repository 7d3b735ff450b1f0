"""All numbers of each row that are above a level: counted first, since they are written to memory of their number."""

from typing import no_type_check

from triton import language as tl

from tasks.sae.kernels.triton.jit import kernel


@kernel
@no_type_check
def count_above(pre_acts, levels, counts, width, stride, OWN: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """A row a program: how many are above the level, or with OWN above that of their column."""
    r = tl.program_id(0).to(tl.int64)
    n_found = 0
    for first in range(0, width, BLOCK):
        _, above = _numbers(pre_acts + r * stride, levels, first + tl.arange(0, BLOCK), width, OWN, KIND)
        n_found += tl.sum(above.to(tl.int32), 0)
    tl.store(counts + r, n_found)


@kernel
@no_type_check
def write_above(
    pre_acts, levels, start, values, latents, width, stride, OWN: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr
):
    """A row a program: write values and latents of all that ``count_above`` counted, from ``start`` on."""
    r = tl.program_id(0).to(tl.int64)
    to = tl.load(start + r)
    for first in range(0, width, BLOCK):
        place = first + tl.arange(0, BLOCK)
        number, above = _numbers(pre_acts + r * stride, levels, place, width, OWN, KIND)
        keep = above.to(tl.int32)
        n_here = tl.sum(keep, 0)
        if n_here > 0:
            at = to + tl.cumsum(keep, 0) - 1
            tl.store(values + at, number.to(values.dtype.element_ty), mask=above)
            tl.store(latents + at, place, mask=above)
            to += n_here


@kernel
@no_type_check
def _numbers(row, levels, place, width, OWN: tl.constexpr, KIND: tl.constexpr):
    """Some numbers of a row, and which of them are above their level or NaN."""
    there = place < width
    number = tl.load(row + place, mask=there, other=0.0).to(KIND)
    level = tl.load(levels + place, mask=there, other=0.0) if OWN else tl.load(levels)
    return number, there & ((number > level.to(KIND)) | (number != number))
