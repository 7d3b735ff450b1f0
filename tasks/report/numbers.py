"""Numbers as people read them, and as few digits as the data files need."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

DASH = "\N{EN DASH}"


def percent(share: float | None, digits: int = 3) -> str:
    """A share in 0..1 as a percentage with ``digits`` significant digits; a dash where there is none."""
    if share is None or not math.isfinite(share):
        return DASH
    return f"{number(100 * share, digits)} %"


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits and thousands separators; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def compact(value: float | None) -> str:
    """A count in three digits: 512, 65.5k, 1.02M, 3.1B."""
    if value is None or not math.isfinite(value):
        return DASH
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if abs(value) < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as '42 s', '3 min 5 s' or '2 h 10 min'."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def shown(value: Any) -> str:
    """Any JSON value of a summary: numbers short, groups as 'name: value' pairs."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "see the table" if any(isinstance(inner, dict) for inner in value) else ", ".join(map(shown, value))
    if isinstance(value, dict) and any(isinstance(inner, list) for inner in value.values()):
        return "see the chart"
    if isinstance(value, dict):
        # JSON keeps names in alphabetical order; percentiles are read in the order of their numbers.
        names = sorted(value, key=float) if all(name.isdecimal() for name in value) else list(value)
        return " · ".join(f"{name}: {shown(value[name])}" for name in names)
    if isinstance(value, int | float):
        return number(value, 3)
    return str(value)


def significant(values: ArrayLike, digits: int = 4) -> list[float | int | None]:
    """Numbers rounded to ``digits`` significant digits, whole ones as integers, for small JSON.

    NaN and infinities, which JSON does not have, become None.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    safe = np.where(finite & (array != 0), array, 1.0)
    # Scaling by an exact power of ten and rounding gives the double whose repr is the short one (powers up to 22).
    places = np.clip(digits - 1 - np.floor(np.log10(np.abs(safe))), -22, 22)
    scale = 10.0 ** np.abs(places)
    rounded = np.where(places >= 0, np.rint(safe * scale) / scale, np.rint(safe / scale) * scale)
    rounded = np.where(finite & (array != 0), rounded, 0.0)
    return [_short(value) if ok else None for value, ok in zip(rounded.tolist(), finite.tolist(), strict=True)]


def _short(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
