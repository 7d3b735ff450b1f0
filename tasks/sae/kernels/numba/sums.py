"""Sums and products over some rows of a matrix, four rows at a time, so that what they have in common stays in registers.

The order of the sums is fixed, so that results do not depend on the number of threads.
"""

from typing import Any, no_type_check

import numpy as np

from tasks.sae.kernels.numba.jit import inlined, kernel

_BLOCK = 16  # latents


@kernel
@no_type_check
def decode(
    target: Any,
    W_dec: Any,
    weight: Any,
    values: Any,
    latents: Any,
    start: Any,
    bounds: Any,
    longest: Any,
    residual: Any,
    output_gradient: Any,
    d_values: Any,
    errors: Any,
    low: Any,
    high: Any,
) -> None:
    """Rows low to high; see ``Rows`` for what is written; no ``d_values`` if there is no room for them.

    ``errors`` [n, g] are squared; ``longest`` is the most entries.
    """
    n, d_out = target.shape
    n_groups, minus_two = len(bounds), target.dtype.type(-2)
    which, factors = np.empty(longest, latents.dtype), np.empty(longest, values.dtype)
    places, products = np.empty(longest, np.int64), np.empty(longest, values.dtype)
    ends, gradient = np.empty(n_groups + 1, np.int64), np.empty(d_out, target.dtype)
    for r in range(low, high):
        by_group(latents, start[r], start[r + 1], bounds, places, ends)
        for i in range(ends[n_groups]):
            which[i], factors[i] = latents[places[i]], -values[places[i]]
        rest = residual[r]
        copy(rest, target[r])
        for p in range(n_groups):
            add_rows(rest, factors[ends[p] : ends[p + 1]], W_dec, which[ends[p] : ends[p + 1]])
            errors[r, p] = square(rest)
            scale(output_gradient[p * n + r], rest, minus_two * weight[p])
        clear(gradient)
        for p in range(n_groups - 1, -1, -1):
            accumulate(gradient, output_gradient[p * n + r])
            if len(d_values) == 0:
                continue
            dot_rows(products, gradient, W_dec, which[ends[p] : ends[p + 1]])
            for i in range(ends[p], ends[p + 1]):
                d_values[places[i]] = products[i - ends[p]]


@kernel
@no_type_check
def add_groups(
    W_dec: Any, values: Any, latents: Any, start: Any, bounds: Any, longest: Any, decoded: Any, low: Any, high: Any
) -> None:
    """Rows low to high: add what each group of latents decodes to, to ``decoded`` [g, n, d_out]."""
    n_groups = len(bounds)
    which, factors = np.empty(longest, latents.dtype), np.empty(longest, values.dtype)
    places, ends = np.empty(longest, np.int64), np.empty(n_groups + 1, np.int64)
    for r in range(low, high):
        by_group(latents, start[r], start[r + 1], bounds, places, ends)
        for i in range(ends[n_groups]):
            which[i], factors[i] = latents[places[i]], values[places[i]]
        for p in range(n_groups):
            clear(decoded[p, r])
            add_rows(decoded[p, r], factors[ends[p] : ends[p + 1]], W_dec, which[ends[p] : ends[p + 1]])


@kernel
@no_type_check
def compare_rows(target: Any, decoded: Any, weight: Any, output_gradient: Any, errors: Any, low: Any, high: Any) -> None:
    """Rows low to high: hold what each group decodes to [g, n, d] against ``target``; ``errors`` [n, g] are squared."""
    n_groups, minus_two = len(decoded), target.dtype.type(-2)
    rest = np.empty(target.shape[1], target.dtype)
    for r in range(low, high):
        copy(rest, target[r])
        for p in range(n_groups):
            subtract(rest, decoded[p, r], rest.dtype.type(1))
            errors[r, p] = square(rest)
            scale(output_gradient[p, r], rest, minus_two * weight[p])
        clear(rest)
        for p in range(n_groups - 1, -1, -1):
            accumulate(rest, output_gradient[p, r])


@kernel
@no_type_check
def dot_groups(
    gradient: Any, W_dec: Any, latents: Any, start: Any, bounds: Any, longest: Any, d_values: Any, low: Any, high: Any
) -> None:
    """Rows low to high: write each entry's product of its decoder row with its group's and row's ``gradient`` [g * n, d]."""
    n_groups, n = len(bounds), len(start) - 1
    which, products = np.empty(longest, latents.dtype), np.empty(longest, d_values.dtype)
    places, ends = np.empty(longest, np.int64), np.empty(n_groups + 1, np.int64)
    for r in range(low, high):
        by_group(latents, start[r], start[r + 1], bounds, places, ends)
        for i in range(ends[n_groups]):
            which[i] = latents[places[i]]
        for p in range(n_groups):
            dot_rows(products, gradient[p * n + r], W_dec, which[ends[p] : ends[p + 1]])
            for i in range(ends[p], ends[p + 1]):
                d_values[places[i]] = products[i - ends[p]]


@inlined
@no_type_check
def by_group(latents: Any, low: Any, high: Any, bounds: Any, places: Any, ends: Any) -> None:
    """Write the places of the entries low to high group by group, and where each group ends (the first starts at 0)."""
    count, lower = 0, 0
    ends[0] = 0
    for p in range(len(bounds)):
        for e in range(low, high):
            if lower <= latents[e] < bounds[p]:
                places[count] = e
                count += 1
        lower, ends[p + 1] = bounds[p], count


@inlined
@no_type_check
def square(row: Any) -> Any:
    """The squared norm, in float64."""
    total = 0.0
    for j in range(len(row)):
        total += np.float64(row[j]) * np.float64(row[j])
    return total


@inlined
@no_type_check
def clear(out: Any) -> None:
    """Write zeros; like ``copy``, a loop is compiled in a third of the time that an assignment to a slice is."""
    for j in range(len(out)):
        out[j] = 0


@inlined
@no_type_check
def copy(out: Any, row: Any) -> None:
    """Write a row."""
    for j in range(len(row)):
        out[j] = row[j]


@inlined
@no_type_check
def scale(out: Any, row: Any, factor: Any) -> None:
    """Write factor * row."""
    for j in range(len(row)):
        out[j] = factor * row[j]


@inlined
@no_type_check
def accumulate(total: Any, row: Any) -> None:
    """Add ``row`` to ``total`` and write the sum to both."""
    for j in range(len(row)):
        total[j] += row[j]
        row[j] = total[j]


@inlined
@no_type_check
def gradients(entries: Any, W_dec: Any, i: Any, d_encoder: Any, d_W_dec: Any) -> Any:
    """Write the gradients of encoder row and decoder row of latent i; that of its bias is returned."""
    low, high = entries.start[i], entries.start[i + 1]
    if entries.pulls:
        dot_rows(entries.d_values[low:high], W_dec[i], entries.gradient, entries.gradient_rows[low:high])
    clear(d_encoder)
    clear(d_W_dec)
    add_rows(d_W_dec, entries.values[low:high], entries.gradient, entries.gradient_rows[low:high])
    add_rows(d_encoder, entries.d_values[low:high], entries.x, entries.x_rows[low:high])
    if len(entries.radial) > 0:
        subtract(d_W_dec, W_dec[i], -entries.radial[i])
    d_bias = entries.bias[i] if len(entries.bias) > 0 else d_encoder.dtype.type(0)
    for e in range(low, high):
        d_bias += entries.d_values[e]
    return d_bias


@kernel
@no_type_check
def write(entries: Any, W_dec: Any, out: Any, low: Any, high: Any) -> None:
    """Latents low to high: write the gradients of encoder, W_dec and b_enc."""
    for i in range(low, high):
        out[2][i] = gradients(entries, W_dec, i, out[0][i], out[1][i])


@kernel
@no_type_check
def adam(
    entries: Any,
    parameters: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    factors: Any,
    unit_norm: Any,
    squares: Any,
    low: Any,
    high: Any,
) -> None:
    """Latents low to high: update encoder, W_dec and b_enc, and write the squared norms of their gradients [d_sae].

    Some latents at a time, because memory is read fastest in long runs.
    """
    encoder, W_dec, b_enc = parameters
    d_encoder, d_bias = np.empty((_BLOCK, encoder.shape[1]), encoder.dtype), np.empty(_BLOCK, b_enc.dtype)
    d_W_dec = np.empty((_BLOCK, W_dec.shape[1]), W_dec.dtype)
    for start in range(low, high, _BLOCK):
        n = min(_BLOCK, high - start)
        some = slice(start, start + n)
        for i in range(n):
            d_bias[i] = gradients(entries, W_dec, start + i, d_encoder[i], d_W_dec[i])
            if unit_norm:
                subtract(d_W_dec[i], W_dec[start + i], dot(d_W_dec[i], W_dec[start + i]))
            squares[start + i] = dot(d_encoder[i], d_encoder[i]) + dot(d_W_dec[i], d_W_dec[i]) + d_bias[i] * d_bias[i]
        adam_rows(encoder[some], exp_avg[0][some], exp_avg_sq[0][some], d_encoder[:n], factors)
        adam_rows(W_dec[some], exp_avg[1][some], exp_avg_sq[1][some], d_W_dec[:n], factors)
        adam_rows(b_enc[some], exp_avg[2][some], exp_avg_sq[2][some], d_bias[:n], factors)
        if unit_norm:
            for i in range(start, start + n):
                normalise(W_dec[i])


@inlined
@no_type_check
def adam_rows(parameters: Any, exp_avgs: Any, exp_avg_sqs: Any, gradients: Any, factors: Any) -> None:
    """Adam's update of adjacent rows, with ``factors`` as ``_factors`` gives them."""
    parameter, exp_avg, exp_avg_sq = parameters.reshape(-1), exp_avgs.reshape(-1), exp_avg_sqs.reshape(-1)
    gradient = gradients.reshape(-1)
    rate1, beta2, rate2, step_size, correction, eps = factors
    for j in range(len(parameter)):
        g = gradient[j]
        m = exp_avg[j] + rate1 * (g - exp_avg[j])
        v = beta2 * exp_avg_sq[j] + rate2 * g * g
        exp_avg[j], exp_avg_sq[j] = m, v
        parameter[j] -= step_size * m / (np.sqrt(v) * correction + eps)


@inlined
@no_type_check
def subtract(row: Any, other: Any, factor: Any) -> None:
    """Take factor * other from ``row``."""
    for j in range(len(row)):
        row[j] -= factor * other[j]


@inlined
@no_type_check
def normalise(row: Any) -> None:
    """Bring a row to norm 1."""
    factor = row.dtype.type(1) / np.sqrt(dot(row, row))
    for j in range(len(row)):
        row[j] *= factor


@inlined
@no_type_check
def add_rows(out: Any, factors: Any, matrix: Any, which: Any) -> None:
    """Add the sum over i of factors[i] * matrix[which[i]] to ``out``."""
    n, width, i = len(which), len(out), 0
    while i + 4 <= n:
        a, b, c, d = matrix[which[i]], matrix[which[i + 1]], matrix[which[i + 2]], matrix[which[i + 3]]
        fa, fb, fc, fd = factors[i], factors[i + 1], factors[i + 2], factors[i + 3]
        for j in range(width):
            out[j] += (fa * a[j] + fb * b[j]) + (fc * c[j] + fd * d[j])
        i += 4
    while i < n:
        a, fa = matrix[which[i]], factors[i]
        for j in range(width):
            out[j] += fa * a[j]
        i += 1


@inlined
@no_type_check
def dot_rows(out: Any, row: Any, matrix: Any, which: Any) -> None:
    """Write the product of ``row`` with matrix[which[i]] to out[i]."""
    n, width, i = len(which), len(row), 0
    while i + 4 <= n:
        a, b, c, d = matrix[which[i]], matrix[which[i + 1]], matrix[which[i + 2]], matrix[which[i + 3]]
        sa = sb = sc = sd = row.dtype.type(0)
        for j in range(width):
            sa += row[j] * a[j]
            sb += row[j] * b[j]
            sc += row[j] * c[j]
            sd += row[j] * d[j]
        out[i], out[i + 1], out[i + 2], out[i + 3] = sa, sb, sc, sd
        i += 4
    while i < n:
        out[i] = dot(row, matrix[which[i]])
        i += 1


@inlined
@no_type_check
def dot(a: Any, b: Any) -> Any:
    """The product of two rows."""
    total = a.dtype.type(0)
    for j in range(len(a)):
        total += a[j] * b[j]
    return total
