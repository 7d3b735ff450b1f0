"""Finding the largest numbers of a row by their bits, while the row is in the first-level cache.

Positive floats are ordered like the integers of the same bits, in every precision, and negative ones are negative
integers: rows come here as int16 (bfloat16), int32 or int64, and only numbers above 0 are ever found. A NaN of either
sign shows in the magnitude, the bits without the sign, which is then above infinity's.
"""

from typing import Any, no_type_check

import numpy as np

from tasks.sae.kernels.jit import kernel


@kernel
@no_type_check
def top_rows(
    bits: Any, among: Any, infinity: Any, n_groups: Any, numbers: Any, latents: Any, counts: Any, low: Any, high: Any
) -> None:
    """Rows low to high: write the numbers found [n, k], their columns, and how many they are."""
    n_among, k = len(among), numbers.shape[1]
    maxima, magnitudes = np.empty(n_groups, bits.dtype), np.empty(n_groups, bits.dtype)
    gathered = np.empty(n_among, bits.dtype)
    found, places = np.empty(bits.shape[1], bits.dtype), np.empty(bits.shape[1], np.int32)
    for r in range(low, high):
        for i in range(n_among):
            gathered[i] = bits[r, among[i]]
        row = gathered if n_among > 0 else bits[r]
        counts[r] = find_top(row, k, infinity, maxima, magnitudes, found, places)
        for i in range(counts[r]):
            numbers[r, i] = found[i]
            latents[r, i] = among[places[i]] if n_among > 0 else places[i]


@kernel
@no_type_check
def rows_above(bits: Any, level: Any, infinity: Any, n_groups: Any, counts: Any, low: Any, high: Any) -> Any:
    """Rows low to high: the numbers not below ``level`` and their columns, row after row; counts are written."""
    width, end = bits.shape[1], 0
    maxima, magnitudes = np.empty(n_groups, bits.dtype), np.empty(n_groups, bits.dtype)
    numbers, latents = np.empty((high - low) * width, bits.dtype), np.empty((high - low) * width, np.int32)
    for r in range(low, high):
        group_maxima(bits[r], maxima, magnitudes)
        if has_nan(bits[r], infinity, magnitudes):
            counts[r] = find_nan(bits[r], infinity, numbers[end:], latents[end:])
        else:
            counts[r] = find_from(bits[r], level, maxima, numbers[end:], latents[end:])
        end += counts[r]
    return numbers[:end].copy(), latents[:end].copy()


@kernel
@no_type_check
def find_top(row: Any, k: Any, infinity: Any, maxima: Any, magnitudes: Any, numbers: Any, places: Any) -> Any:
    """Write the ``k`` largest positive numbers of a row and their places, in no order; how many there are.

    Each lies in one of the k groups of the largest maxima, so nothing else is looked at twice. A row with a NaN gives
    that only. ``numbers`` and ``places`` are as long as the row, ``maxima`` and ``magnitudes`` as the groups are many.
    """
    group_maxima(row, maxima, magnitudes)
    if has_nan(row, infinity, magnitudes):
        return find_nan(row, infinity, numbers, places)
    level = level_of(maxima, k, k // 4)  # a level that is a little low costs less than one that is exact
    count = find_from(row, level, maxima, numbers, places)
    if count > k:
        count = keep_top(numbers[:count], places, k)
    return count


@kernel
@no_type_check
def group_maxima(row: Any, maxima: Any, magnitudes: Any) -> None:
    """Write the maximum and the largest magnitude of each group.

    A group is every len(maxima)-th number, so that groups lie side by side in vector registers. Fewer numbers than
    make a column of them are in no group, at the end of the row.
    """
    n_groups, magnitude = len(maxima), (1 << (8 * row.itemsize - 1)) - 1
    for g in range(n_groups):
        maxima[g] = row[g]
        magnitudes[g] = row[g] & magnitude
    for j in range(1, len(row) // n_groups):
        part = row[j * n_groups : (j + 1) * n_groups]
        for g in range(n_groups):
            maxima[g] = max(maxima[g], part[g])
            magnitudes[g] = max(magnitudes[g], part[g] & magnitude)


@kernel
@no_type_check
def has_nan(row: Any, infinity: Any, magnitudes: Any) -> Any:
    """Whether any number is NaN."""
    found = count_from(magnitudes, infinity + 1) > 0
    magnitude = (1 << (8 * row.itemsize - 1)) - 1
    for i in range(len(row) - len(row) % len(magnitudes), len(row)):
        found |= (row[i] & magnitude) > infinity
    return found


@kernel
@no_type_check
def find_nan(row: Any, infinity: Any, numbers: Any, places: Any) -> Any:
    """Write the first NaN, which there has to be, and its place; 1."""
    magnitude = (1 << (8 * row.itemsize - 1)) - 1
    place = 0
    while (row[place] & magnitude) <= infinity:
        place += 1
    numbers[0], places[0] = row[place], place
    return 1


@kernel
@no_type_check
def count_from(numbers: Any, level: Any) -> Any:
    """How many numbers are not below ``level``."""
    count = 0
    for i in range(len(numbers)):
        count += numbers[i] >= level
    return count


@kernel
@no_type_check
def level_of(numbers: Any, k: Any, slack: Any) -> Any:
    """A positive level that at least ``k`` and, ties apart, at most ``k + slack`` are not below; 1 if fewer are positive."""
    low, high = 1, 1
    for i in range(len(numbers)):
        high = max(high, numbers[i] + 1)
    while high - low > 1:
        middle = low + (high - low) // 2
        count = count_from(numbers, middle)
        if count < k:
            high = middle
            continue
        low = middle
        if count <= k + slack:
            break
    return low


@kernel
@no_type_check
def find_from(row: Any, level: Any, maxima: Any, numbers: Any, places: Any) -> Any:
    """Write all numbers not below ``level`` and their places; how many there are."""
    n_groups, count = len(maxima), 0
    in_groups = len(row) - len(row) % n_groups
    for g in range(n_groups):
        if maxima[g] >= level:
            for place in range(g, in_groups, n_groups):
                if row[place] >= level:
                    numbers[count], places[count] = row[place], place
                    count += 1
    for place in range(in_groups, len(row)):
        if row[place] >= level:
            numbers[count], places[count] = row[place], place
            count += 1
    return count


@kernel
@no_type_check
def keep_top(numbers: Any, places: Any, k: Any) -> Any:
    """Move the ``k`` largest of more than k positive numbers to the front, with their places; k."""
    level = level_of(numbers, k, 0)
    ties = k - count_from(numbers, level + 1)
    count = 0
    for i in range(len(numbers)):
        number = numbers[i]
        if number < level or (number == level and ties == 0):
            continue
        ties -= number == level
        numbers[count], places[count] = number, places[i]
        count += 1
    return count
