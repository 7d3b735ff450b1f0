"""Sums and products over the decoder rows of a row's entries, one entry after the other, so that bits never change."""

from typing import no_type_check

from triton import language as tl

from tasks.sae.kernels.triton.jit import kernel


@kernel
@no_type_check
def decode_and_compare(
    target,
    W_dec,
    weight,
    values,
    latents,
    start,
    ends,
    residual,
    output_gradient,
    errors,
    n,
    width,
    G: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    """A row and a block of its columns a program; see ``DecodedRows``. ``errors`` [n, g, blocks] are squared."""
    r, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    ok = column < width
    rest = tl.load(target + r * width + column, mask=ok, other=0.0).to(KIND)
    low = 0
    for p in range(G):
        high = tl.load(ends + p)
        rest -= _sum_of_group(values, latents, W_dec, start + r, low, high, column, width, BLOCK, KIND)
        tl.store(errors + (r * G + p) * tl.num_programs(1) + block, tl.sum(rest * rest, 0))
        gradient = -2 * tl.load(weight + p).to(KIND) * rest
        to = output_gradient + (p * n + r) * width + column
        tl.store(to, gradient.to(output_gradient.dtype.element_ty), mask=ok)
        low = high
    tl.store(residual + r * width + column, rest.to(residual.dtype.element_ty), mask=ok)
    if G > 1:  # what a group decodes to is in all prefixes from its own on
        tl.debug_barrier()
        total = tl.zeros((BLOCK,), KIND)
        for q in range(G):
            at = output_gradient + ((G - 1 - q) * n + r) * width + column
            total += tl.load(at, mask=ok, other=0.0).to(KIND)
            tl.store(at, total.to(output_gradient.dtype.element_ty), mask=ok)


@kernel
@no_type_check
def decode_each_group(
    W_dec, values, latents, start, ends, decoded, n, width, G: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr
):
    """A row and a block of its columns a program: what each group decodes to [g, n, width]."""
    r = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    low = 0
    for p in range(G):
        high = tl.load(ends + p)
        total = _sum_of_group(values, latents, W_dec, start + r, low, high, column, width, BLOCK, KIND)
        tl.store(decoded + (p * n + r) * width + column, total.to(decoded.dtype.element_ty), mask=column < width)
        low = high


@kernel
@no_type_check
def _sum_of_group(values, latents, W_dec, start, low, high, column, width, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """What the latents from ``low`` to ``high`` decode to, at some columns of the row whose entries begin at start[0]."""
    total = tl.zeros((BLOCK,), KIND)
    for e in range(tl.load(start), tl.load(start + 1)):
        latent = tl.load(latents + e)
        is_inside = (latent >= low) & (latent < high)
        value = tl.load(values + e, mask=is_inside, other=0.0).to(KIND)
        at = W_dec + latent.to(tl.int64) * width + column
        total += value * tl.load(at, mask=is_inside & (column < width), other=0.0).to(KIND)
    return total


@kernel
@no_type_check
def products(
    output_gradient,
    W_dec,
    latents,
    start,
    ends,
    d_values,
    n,
    width,
    G: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    """A row a program: each entry's product of its decoder row with the gradient on its row and group."""
    r = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    for e in range(tl.load(start + r), tl.load(start + r + 1)):
        latent = tl.load(latents + e)
        group = 0
        for p in range(G - 1):
            group += (latent >= tl.load(ends + p)).to(tl.int32)
        total = tl.zeros((BLOCK,), KIND)
        for first in range(0, width, BLOCK):
            column = first + lane
            weights = tl.load(W_dec + latent.to(tl.int64) * width + column, mask=column < width, other=0.0).to(KIND)
            at = output_gradient + (group * n + r) * width + column
            total += weights * tl.load(at, mask=column < width, other=0.0).to(KIND)
        tl.store(d_values + e, tl.sum(total, 0).to(d_values.dtype.element_ty))
