"""Finding all numbers of a row that are above a level of their column, while the row is in the first-level cache.

Numpy has no bfloat16: such rows come here as int16 of the same bits, which are the upper half of a float32's.
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
def rows_above(rows: Any, levels: Any, counts: Any, low: Any, high: Any) -> Any:
    """Rows low to high: the numbers found and their columns, row after row; counts are written."""
    width, end = rows.shape[1], 0
    numbers, columns = np.empty((high - low) * width, rows.dtype), np.empty((high - low) * width, np.int32)
    starts = np.empty(1 + width, np.int32)
    for r in range(low, high):
        counts[r] = find_above(rows[r], levels, numbers[end:], columns[end:], starts)
        end += counts[r]
    return numbers[:end].copy(), columns[:end].copy()


@inlined
@no_type_check
def find_above(row: Any, levels: Any, numbers: Any, columns: Any, starts: Any) -> Any:
    """Write all numbers that are not at or below their level, so NaN too, and their columns; how many there are.

    First the registers that hold any: a jump for each number is guessed wrong most times, and costs more than all else.
    """
    lanes = REGISTER // row.itemsize
    n_starts, count, i = 0, 0, 0
    while i + lanes <= len(row):
        starts[n_starts] = i
        n_starts += register_above(row, levels, i) != 0
        i += lanes
    for start in starts[:n_starts]:
        left = register_above(row, levels, start)
        while left != 0:
            column = start + lowest_bit(left)
            numbers[count], columns[count] = row[column], column
            count += 1
            left &= left - 1
    while i < len(row):
        if number_above(row, levels, i) != 0:
            numbers[count], columns[count] = row[i], i
            count += 1
        i += 1
    return count


@intrinsic
@no_type_check
def register_above(typingctx: Any, row: Any, levels: Any, start: Any) -> Any:
    """A bit for each of the numbers that fill a register from ``start`` on: whether it is found."""
    lanes = 8 * REGISTER // row.dtype.bitwidth
    return types.int64(row, levels, types.int64), lambda *at: _above(*at, lanes)


@intrinsic
@no_type_check
def number_above(typingctx: Any, row: Any, levels: Any, start: Any) -> Any:
    """1 where the number at ``start`` is found, else 0."""
    return types.int64(row, levels, types.int64), lambda *at: _above(*at, 1)


@no_type_check
def _above(context: Any, builder: Any, signature: Any, arguments: Any, lanes: int) -> Any:
    numbers, levels = (_loaded(context, builder, signature, arguments, which, lanes) for which in (0, 1))
    if isinstance(signature.args[0].dtype, types.Integer):
        wide = ir.VectorType(ir.IntType(32), lanes)
        upper = builder.shl(builder.zext(numbers, wide), ir.Constant(wide, [16] * lanes))
        numbers = builder.bitcast(upper, levels.type)
    bits = builder.bitcast(builder.fcmp_unordered(">", numbers, levels), ir.IntType(lanes))
    return builder.zext(bits, ir.IntType(64))


@no_type_check
def _loaded(context: Any, builder: Any, signature: Any, arguments: Any, which: int, lanes: int) -> Any:
    """Adjacent numbers of one of two arrays, from the third argument on."""
    array = context.make_array(signature.args[which])(context, builder, arguments[which])
    number = context.get_data_type(signature.args[which].dtype)
    address = builder.bitcast(builder.gep(array.data, [arguments[2]]), ir.VectorType(number, lanes).as_pointer())
    return builder.load(address, align=signature.args[which].dtype.bitwidth // 8)


@intrinsic
@no_type_check
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """Place of the lowest bit that is set, of which there has to be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate
