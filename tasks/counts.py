"""Whole numbers as people write them: ``1M``, ``2k``, ``1.5M``, ``1e6``, ``700_000``, ``1B``."""

import re
from fractions import Fraction

_COUNT = re.compile(r"([+-]?[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)(?:[eE]\+?([0-9]{1,3})|([kKMB]))?")
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
MOST_CHARACTERS = 64


def count(text: str) -> int | None:
    """The whole number that ``text`` stands for, exactly; None where it stands for none, such as ``1.5`` or ``many``."""
    found = _COUNT.fullmatch(text.strip()) if len(text) <= MOST_CHARACTERS else None
    if found is None:
        return None
    number, power, unit = found.groups()
    # A Decimal would round to 28 digits.
    value = Fraction(number.replace("_", "")) * 10 ** int(power or 0) * _FACTORS[unit or ""]
    return int(value) if value.denominator == 1 and abs(value) < 10 ** (MOST_CHARACTERS + 1) else None
