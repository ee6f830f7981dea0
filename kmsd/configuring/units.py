"""Durations, sizes and amounts as operators write them."""

import re
from decimal import Decimal
from fractions import Fraction

_DURATIONS: dict[str, Decimal] = {
    unit: Decimal(seconds)
    for units, seconds in (
        (("nsec", "ns"), "1e-9"),
        (("usec", "us"), "1e-6"),
        (("msec", "ms"), "1e-3"),
        (("seconds", "second", "sec", "s"), "1"),
        (("minutes", "minute", "min", "mins", "m"), "60"),
        (("hours", "hour", "hrs", "hr", "h"), "3600"),
        (("days", "day", "d"), "86400"),
        (("weeks", "week", "wks", "wk", "w"), "604800"),
        (("months", "month", "M"), "2630016"),
        (("years", "year", "yrs", "yr", "y"), "31557600"),
    )
    for unit in units
}
"""Units of Rust's humantime (a month is 30.44 days, a year 365.25)."""

_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNTS = {"": 1, "wei": 1, "gwei": 10**9, "eth": 10**18}
_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)\s*")


class BadUnit(ValueError):
    """A text that is no duration, size or amount; the words say what is wrong, without the text."""


def parse_duration(text: str) -> float:
    """Seconds of `500ms`, `5s`, `1m 30s`. Raises BadUnit."""
    position, seconds = 0, Decimal(0)
    text = text.strip()
    while position < len(text) or position == 0:
        part = _PART.match(text, position)
        if part is None:
            raise BadUnit("not numbers with units")
        if not part[2]:
            raise BadUnit("a unit is missing")
        if part[2] not in _DURATIONS:
            raise BadUnit(f"unknown unit {part[2][:12]}")
        seconds += Decimal(part[1]) * _DURATIONS[part[2]]
        position = part.end()
    return float(seconds)


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `1 GB`, `1024`. Raises BadUnit."""
    return _whole(text, _SIZES, "bytes")


def parse_wei(text: str) -> int:
    """Wei of `0.5gwei`, `1000000`. Raises BadUnit."""
    return _whole(text, _AMOUNTS, "wei")


def _whole(text: str, units: dict[str, int], name: str) -> int:
    part = re.fullmatch(r"([0-9]{1,40}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)", text.strip())
    if part is None:
        raise BadUnit("not a number with a unit")
    if part[2].lower() not in units:
        raise BadUnit(f"unknown unit {part[2][:12]}")
    amount = Fraction(part[1]) * units[part[2].lower()]
    if amount.denominator != 1:
        raise BadUnit(f"not a whole number of {name}")
    return int(amount)


def duration_text(seconds: float) -> str:
    """`90s`, `5m`, `10ms`: the largest unit without remainder."""
    exact = Decimal(repr(float(seconds)))
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count = exact / _DURATIONS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{exact.normalize():f}s"


def size_text(size: int) -> str:
    """`66MiB`, `1000B`: the largest binary unit without remainder."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit.lower()] == 0:
            return f"{size // _SIZES[unit.lower()]}{unit}"
    return f"{size}B"
