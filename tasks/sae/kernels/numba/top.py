"""Finding the largest numbers of a row by their bits, while the row is in the first-level cache.

Positive floats are ordered like the integers of the same bits, in every precision, and negative ones are negative
integers: rows come here as int16 (bfloat16), int32 or int64, and only numbers above 0 are ever found. A NaN of either
sign shows in the magnitude, the bits without the sign, which is then above infinity's.
"""

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tasks.sae.kernels.numba.jit import inlined, kernel

REGISTER = 64  # bytes compared at once; where registers are shorter LLVM uses several


@kernel
@no_type_check
def top_rows(
    bits: Any, among: Any, infinity: Any, n_groups: Any, numbers: Any, latents: Any, counts: Any, low: Any, high: Any
) -> None:
    """Rows low to high: write the numbers found [n, k], their columns, and how many they are."""
    n_among, k = len(among), numbers.shape[1]
    maxima, magnitudes = np.empty(n_groups, bits.dtype), np.empty(n_groups, bits.dtype)
    gathered = np.empty(n_among, bits.dtype)
    width = bits.shape[1] + REGISTER
    found, places, starts = np.empty(width, bits.dtype), np.empty(width, np.int32), np.empty(width, np.int32)
    for r in range(low, high):
        for i in range(n_among):
            gathered[i] = bits[r, among[i]]
        row = gathered if n_among > 0 else bits[r]
        counts[r] = find_top(row, k, infinity, maxima, magnitudes, found, places, starts)
        for i in range(counts[r]):
            numbers[r, i] = found[i]
            latents[r, i] = among[places[i]] if n_among > 0 else places[i]


@kernel
@no_type_check
def keep_rivals(
    rivals: Any,
    part: Any,
    infinity: Any,
    width: Any,
    values: Any,
    latents: Any,
    start: Any,
    kept_values: Any,
    kept_latents: Any,
    counts: Any,
    low: Any,
    high: Any,
) -> None:
    """Rows low to high: write which of a part's numbers are among the k largest of ``rivals [n_parts, n, k]``.

    They are put to the front of their row, and how many they are behind the row's number. Of equal numbers those of the
    first parts are taken. Of a row with a NaN nothing else is. ``width`` is n_parts * k and a register more.
    """
    n_parts, k = len(rivals), rivals.shape[2]
    among = np.zeros(width, rivals.dtype)[
        : (n_parts * k * rivals.itemsize + REGISTER - 1) // REGISTER * REGISTER // rivals.itemsize
    ]
    for r in range(low, high):
        for p in range(n_parts):
            for i in range(k):
                among[p * k + i] = rivals[p, r, i]
        level, ties = infinity + 1, 0
        is_nan = largest_magnitude(among) > infinity
        if not is_nan:
            level = level_of(among, k, k)
            ties = k - count_from(among, level + 1)
            for i in range(part * k):
                ties -= among[i] == level
        count = 0
        for i in range(start[r + 1] - start[r]):
            number = among[part * k + i]
            is_tie = number == level and ties > 0
            ties -= is_tie
            value = values[start[r] + i]
            if number > level or is_tie or (is_nan and value != value):
                kept_values[r, count], kept_latents[r, count] = value, latents[start[r] + i]
                count += 1
        counts[r + 1] = count


@kernel
@no_type_check
def pack_rows(values: Any, latents: Any, ends: Any, packed_values: Any, packed_latents: Any, low: Any, high: Any) -> None:
    """Rows low to high: write what is at the front of each behind that of the row before."""
    for r in range(low, high):
        for i in range(ends[r + 1] - ends[r]):
            packed_values[ends[r] + i], packed_latents[ends[r] + i] = values[r, i], latents[r, i]


@inlined
@no_type_check
def find_top(row: Any, k: Any, infinity: Any, maxima: Any, magnitudes: Any, numbers: Any, places: Any, starts: Any) -> Any:
    """Write the ``k`` largest positive numbers of a row and their places, in no order; how many there are.

    No number below the k-th largest of all groups' maxima can be one of them, and few others are not below it. A row
    with a NaN gives that only. ``maxima`` and ``magnitudes`` have a place for each group, the others for each number
    and a register more.
    """
    group_maxima(row, maxima, magnitudes)
    if largest_magnitude(magnitudes) > infinity:
        return find_nan(row, infinity, numbers, places)
    level = level_of(maxima, k, k + k // 4)  # a level that is a little low costs less than one that is exact
    count = find_from(row, level, numbers, places, starts)
    if count > k:
        count = keep_top(numbers, places, count, k)
    return count


@inlined
@no_type_check
def group_maxima(row: Any, maxima: Any, magnitudes: Any) -> None:
    """Write the maximum of each group, or 0 if that is larger, and the largest magnitude.

    A group is every len(maxima)-th number, so that groups lie side by side in vector registers.
    """
    integer, n_groups, magnitude = row.dtype.type, len(maxima), (1 << (8 * row.itemsize - 1)) - 1
    for g in range(n_groups):
        maxima[g] = magnitudes[g] = 0
    for start in range(0, len(row), n_groups):
        part = row[start : start + n_groups]
        for g in range(len(part)):
            number, size = part[g], integer(part[g] & magnitude)
            maxima[g] = number if number > maxima[g] else maxima[g]
            magnitudes[g] = size if size > magnitudes[g] else magnitudes[g]


@inlined
@no_type_check
def largest_magnitude(row: Any) -> Any:
    """The largest of all numbers without their signs."""
    integer, magnitude = row.dtype.type, (1 << (8 * row.itemsize - 1)) - 1
    largest = integer(0)
    for i in range(len(row)):
        size = integer(row[i] & magnitude)
        largest = size if size > largest else largest
    return largest


@inlined
@no_type_check
def find_nan(row: Any, infinity: Any, numbers: Any, places: Any) -> Any:
    """Write the first NaN, which there has to be, and its place; 1."""
    magnitude = (1 << (8 * row.itemsize - 1)) - 1
    place = 0
    while (row[place] & magnitude) <= infinity:
        place += 1
    numbers[0], places[0] = row[place], place
    return 1


@inlined
@no_type_check
def level_of(numbers: Any, k: Any, most: Any) -> Any:
    """A positive level that at least ``k`` and, ties apart, at most ``most`` are not below; 1 if fewer are positive."""
    low, high = 1, largest_magnitude(numbers) + 1
    while high - low > 1:
        middle = low + (high - low) // 2
        count = count_from(numbers, middle)
        if count < k:
            high = middle
            continue
        low = middle
        if count <= most:
            break
    return low


@inlined
@no_type_check
def count_from(numbers: Any, level: Any) -> Any:
    """How many numbers, which have to fill registers, are not below ``level``."""
    exact, count = numbers.dtype.type(level), 0
    for start in range(0, len(numbers), REGISTER // numbers.itemsize):
        count += count_bits(compare(numbers, start, exact))
    return count


@inlined
@no_type_check
def find_from(row: Any, level: Any, numbers: Any, places: Any, starts: Any) -> Any:
    """Write all numbers not below ``level`` and their places; how many there are.

    First the registers that hold any: a jump for each number is guessed wrong most times, and costs more than all else.
    """
    lanes, exact = REGISTER // row.itemsize, row.dtype.type(level)
    n_starts, count, i = 0, 0, 0
    while i + lanes <= len(row):
        starts[n_starts] = i
        n_starts += compare(row, i, exact) != 0
        i += lanes
    for start in starts[:n_starts]:
        left = compare(row, start, exact)
        while left != 0:
            place = start + lowest_bit(left)
            numbers[count], places[count] = row[place], place
            count += 1
            left &= left - 1
    while i < len(row):
        if row[i] >= exact:
            numbers[count], places[count] = row[i], i
            count += 1
        i += 1
    return count


@inlined
@no_type_check
def keep_top(numbers: Any, places: Any, n: Any, k: Any) -> Any:
    """Move the ``k`` largest of the first ``n`` > k numbers, all positive, to the front, with their places; k."""
    lanes = REGISTER // numbers.itemsize
    candidates = numbers[: (n + lanes - 1) // lanes * lanes]
    for i in range(n, len(candidates)):
        candidates[i] = 0
    level = level_of(candidates, k, k)
    ties = k - count_from(candidates, level + 1)
    count = 0
    for i in range(n):
        number, place = numbers[i], places[i]
        is_tie = number == level and ties > 0
        ties -= is_tie
        numbers[count], places[count] = number, place
        count += number > level or is_tie
    return count


@intrinsic
@no_type_check
def compare(typingctx: Any, numbers: Any, start: Any, level: Any) -> Any:
    """A bit for each of the numbers that fill a register from ``start`` on: whether it is not below ``level``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        integer = context.get_data_type(signature.args[0].dtype)
        lanes = 8 * REGISTER // integer.width
        vector = ir.VectorType(integer, lanes)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        loaded = builder.load(address, align=integer.width // 8)
        level = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
        level = builder.shuffle_vector(level, level, zeros)
        bits = builder.bitcast(builder.icmp_signed(">=", loaded, level), ir.IntType(lanes))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(numbers, types.int64, numbers.dtype), generate


@intrinsic
@no_type_check
def count_bits(typingctx: Any, bits: Any) -> Any:
    """How many bits are set."""
    return types.int64(types.int64), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


@intrinsic
@no_type_check
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """Place of the lowest bit that is set, of which there has to be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate
