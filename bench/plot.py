"""Lines over time as an SVG document: enough for a page of docs, without a library."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 64, 48
TEXT = 'font-family="sans-serif" font-size="12" fill="#444"'


class Line(NamedTuple):
    """One line: name for the legend, colour, and points (x, y) in order of x."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def svg(title: str, x_title: str, lines: Sequence[Line], *, mark: tuple[str, float] | None = None) -> str:
    """The document. `mark` is a value to be shown as a dashed level, with its name."""
    points = [point for line in lines for point in line.points]
    x_step = _step(max((x for x, _ in points), default=1.0))
    highest = max([y for _, y in points] + ([mark[1]] if mark else []), default=1.0)
    y_step = _step(highest)
    x_end = max((x for x, _ in points), default=1.0) or 1.0
    y_end = y_step * (int(highest / y_step) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + (WIDTH - LEFT - RIGHT) * x / x_end, 1),
            round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / y_end, 1),
        )

    parts = [f'<text x="{LEFT}" y="20" {TEXT} font-weight="bold">{escape(title)}</text>']
    for number in range(int(y_end / y_step) + 1):
        x, y = at(0.0, number * y_step)
        parts.append(f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end" {TEXT}>{number * y_step:g}</text>')
    for number in range(int(x_end / x_step) + 1):
        x, y = at(number * x_step, 0.0)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle" {TEXT}>{number * x_step:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle" {TEXT}>{escape(x_title)}</text>')
    if mark:
        x, y = at(0.0, mark[1])
        parts.append(f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="#444" stroke-dasharray="6 4"/>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{y - 5}" text-anchor="end" {TEXT}>{escape(mark[0])}</text>')
    place = LEFT
    for line in lines:
        path = "L".join(f"{x} {y}" for x, y in (at(*point) for point in line.points))
        if path:
            parts.append(f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="1.5"/>')
        parts.append(f'<path d="M{place} 40h18" stroke="{line.colour}" stroke-width="3"/>')
        parts.append(f'<text x="{place + 24}" y="44" {TEXT}>{escape(line.name)}</text>')
        place += 50 + 7 * len(line.name)
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<rect width="100%" height="100%" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


def _step(highest: float) -> float:
    """A round distance between about six marks up to `highest`."""
    size = 1.0
    while True:
        for factor in (1.0, 2.0, 5.0):
            if highest / (size * factor) <= 8.0:
                return size * factor
        size *= 10.0
