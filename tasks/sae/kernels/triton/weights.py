"""Gradients of a weight's rows, each a sum over a latent's entries, and Adam's update there and then.

A latent with more than CHUNK entries is summed up by several programs, whose sums ``finish_long`` adds in their order. So
the busiest latent keeps no other waiting, and bits never change.
"""

from typing import no_type_check

from triton import language as tl

from tasks.sae.kernels.triton.jit import kernel


@kernel
@no_type_check
def sum_chunks(
    rows,
    order,
    which,
    factors,
    pulled,
    start,
    chunk_latent,
    chunk_start,
    slot,
    part,
    part_totals,
    weights,
    radial,
    out,
    totals,
    exp_avg,
    exp_avg_sq,
    adam,
    squares,
    copy,
    d_own,
    width,
    CHUNK: tl.constexpr,
    AT_ONCE: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
    UNIT_NORM: tl.constexpr,
    PADDED: tl.constexpr,
):
    """A chunk of a latent's entries a program: the sum of factors[e] * rows[which[e]], and the sum of factors in ``totals``.

    Where a latent is one chunk, its row is finished. ``pulled`` gets each entry's product of rows[which[e]] with its
    latent's row of ``weights``; with PADDED none where the factor is 0. Grids are upper bounds: programs beyond the last
    chunk have latent ``d_own`` and leave.
    """
    chunk = tl.program_id(0)
    latent = tl.load(chunk_latent + chunk)
    if latent < d_own:
        nth = chunk - tl.load(chunk_start + latent)
        end = tl.load(start + latent + 1)
        first = tl.load(start + latent)
        low = first + nth * CHUNK
        high = tl.minimum(low + CHUNK, end)
        column = tl.arange(0, BLOCK)
        ok = column < width
        gradient = tl.zeros((BLOCK,), KIND)
        total = tl.full([], 0.0, KIND)
        if pulled is not None:
            weight = tl.load(weights + latent.to(tl.int64) * width + column, mask=ok, other=0.0).to(KIND)
        for e in range(low, high, AT_ONCE):
            at = e + tl.arange(0, AT_ONCE)
            there = at < high
            entry = tl.load(order + at, mask=there, other=0)
            row = tl.load(which + entry, mask=there, other=0).to(tl.int64)
            places = rows + row[:, None] * width + column[None, :]
            tile = tl.load(places, mask=there[:, None] & ok[None, :], other=0.0).to(KIND)
            factor = tl.load(factors + entry, mask=there, other=0.0).to(KIND)
            if pulled is not None:
                product = tl.sum(tile * weight[None, :], 1)
                if PADDED:
                    product = tl.where(factor == 0, 0.0, product)
                tl.store(pulled + entry, product.to(pulled.dtype.element_ty), mask=there)
            gradient += tl.sum(factor[:, None] * tile, 0)
            total += tl.sum(factor, 0)
        if end - first <= CHUNK:
            _finish(
                latent,
                gradient,
                total,
                weights,
                radial,
                out,
                totals,
                exp_avg,
                exp_avg_sq,
                adam,
                squares,
                copy,
                width,
                BLOCK,
                KIND,
                UNIT_NORM,
            )
        else:
            place = (tl.load(slot + latent) + nth).to(tl.int64)
            tl.store(part + place * width + column, gradient, mask=ok)
            tl.store(part_totals + place, total)


@kernel
@no_type_check
def finish_long(
    start,
    slot,
    part,
    part_totals,
    weights,
    radial,
    out,
    totals,
    exp_avg,
    exp_avg_sq,
    adam,
    squares,
    copy,
    width,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
    UNIT_NORM: tl.constexpr,
):
    """A latent a program: finish its row if it is of several chunks."""
    latent = tl.program_id(0)
    n_entries = tl.load(start + latent + 1) - tl.load(start + latent)
    if n_entries > CHUNK:
        column = tl.arange(0, BLOCK)
        gradient = tl.zeros((BLOCK,), KIND)
        total = tl.full([], 0.0, KIND)
        place = tl.load(slot + latent).to(tl.int64)
        for q in range((n_entries + CHUNK - 1) // CHUNK):
            gradient += tl.load(part + (place + q) * width + column, mask=column < width, other=0.0)
            total += tl.load(part_totals + place + q)
        _finish(
            latent,
            gradient,
            total,
            weights,
            radial,
            out,
            totals,
            exp_avg,
            exp_avg_sq,
            adam,
            squares,
            copy,
            width,
            BLOCK,
            KIND,
            UNIT_NORM,
        )


@kernel
@no_type_check
def _finish(
    latent,
    gradient,
    total,
    weights,
    radial,
    out,
    totals,
    exp_avg,
    exp_avg_sq,
    adam,
    squares,
    copy,
    width,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
    UNIT_NORM: tl.constexpr,
):
    """Write a latent's gradient, or where there are moments take Adam's step, and write the gradient's squared norm.

    ``copy`` gets the bits of updated weights in bfloat16.
    ``adam`` is 1 - beta1, beta2, 1 - beta2, step size, 1 / sqrt(1 - beta2^step), and eps.
    """
    column = tl.arange(0, BLOCK)
    ok = column < width
    at = latent.to(tl.int64) * width + column
    if radial is not None:
        gradient += tl.load(radial + latent).to(KIND) * tl.load(weights + at, mask=ok, other=0.0).to(KIND)
    result = gradient
    if exp_avg is not None:
        weight = tl.load(weights + at, mask=ok, other=0.0).to(KIND)
        if UNIT_NORM:
            gradient -= tl.sum(gradient * weight, 0) * weight
        tl.store(squares + latent, tl.sum(gradient * gradient, 0))
        m = tl.load(exp_avg + at, mask=ok, other=0.0).to(KIND)
        v = tl.load(exp_avg_sq + at, mask=ok, other=0.0).to(KIND)
        m += tl.load(adam) * (gradient - m)
        v = tl.load(adam + 1) * v + tl.load(adam + 2) * gradient * gradient
        tl.store(exp_avg + at, m.to(exp_avg.dtype.element_ty), mask=ok)
        tl.store(exp_avg_sq + at, v.to(exp_avg_sq.dtype.element_ty), mask=ok)
        result = weight - tl.load(adam + 3) * m / (tl.sqrt(v) * tl.load(adam + 4) + tl.load(adam + 5))
        if UNIT_NORM:
            result = result / tl.sqrt(tl.sum(result * result, 0))
    tl.store(out + at, result.to(out.dtype.element_ty), mask=ok)
    if copy is not None:
        tl.store(copy + at, _bfloat16_bits(result.to(tl.float32)), mask=ok)
    if totals is not None:
        tl.store(totals + latent, total.to(totals.dtype.element_ty))


@kernel
@no_type_check
def _bfloat16_bits(number):
    """The bits of the nearest bfloat16, of two the even one, as int16; Triton's interpreter would cut off instead."""
    bits = number.to(tl.int32, bitcast=True)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(number == number, nearest, 0x7FC0).to(tl.int16)
