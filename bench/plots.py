"""The figures of a run as PNG files for docs/performance.md, drawn without any library."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.glyphs import GLYPHS, HEIGHT, WIDTH

PANELS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "cpu.png",
        "CPU, us per operation: kmsd (dark), Postgres (light)",
        ("daemon_cpu_us", "postgres_cpu_us"),
        ("public", "user", "mixed", "small", "burst", "drain", "rows", "catchup", "latency"),
    ),
    (
        "rate.png",
        "accepted per second",
        ("accepted_per_s",),
        ("public", "user", "mixed", "small", "burst", "drain", "rows", "catchup"),
    ),
    ("alone.png", "each sibling alone, operations per second", ("accepted_per_s",), ("ingest", "work", "send")),
    ("scale.png", "1, 2, 3 daemons: accepted per second", ("accepted_per_s",), ("scale-1", "scale-2", "scale-3")),
    (
        "memory.png",
        "peak resident memory, MiB",
        ("peak_rss_mib",),
        ("public", "user", "burst", "drain", "catchup", "large", "idle"),
    ),
)
"""File, title, figures stacked in one bar, scenarios."""

BAR, GAP, LEFT, LONGEST = 22, 10, 110, 520
SHADES = ((38, 70, 83), (138, 177, 125))
INK, PAPER = (40, 40, 40), (255, 255, 255)


class Canvas:
    """Pixels, and what is drawn on them."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rows = [bytearray(PAPER * width) for _ in range(height)]

    def box(self, left: int, top: int, width: int, height: int, colour: tuple[int, int, int]) -> None:
        """A filled rectangle."""
        for row in self._rows[top : top + height]:
            row[3 * left : 3 * (left + width)] = bytes(colour * width)

    def text(self, left: int, top: int, words: str) -> None:
        """A line in the only font there is; characters without a glyph are blank."""
        for place, character in enumerate(words.lower()):
            for y, bits in enumerate(GLYPHS.get(character, ())):
                for x in range(WIDTH):
                    if bits >> (WIDTH - 1 - x) & 1:
                        self.box(left + 2 * (place * (WIDTH + 1) + x), top + 2 * y, 2, 2, INK)

    def png(self) -> bytes:
        """The picture (PNG, 8 bits RGB)."""
        raw = b"".join(b"\0" + row for row in self._rows)
        header = struct.pack("!2I5B", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))
            for name, data in chunks
        )


def draw(results: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write a file for each panel of which `results` has scenarios; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file, title, figures, scenarios in PANELS:
        bars = [(name, [float(results[name][figure]) for figure in figures]) for name in scenarios if name in results]
        if bars:
            (folder / file).write_bytes(_panel(title, bars).png())
            written.append(folder / file)
    return written


def _panel(title: str, bars: Sequence[tuple[str, Sequence[float]]]) -> Canvas:
    scale = LONGEST / (max(sum(values) for _, values in bars) or 1.0)
    canvas = Canvas(LEFT + LONGEST + 200, 40 + len(bars) * (BAR + GAP) + GAP)
    canvas.text(10, 10, title)
    for place, (name, values) in enumerate(bars):
        top = 40 + place * (BAR + GAP)
        canvas.text(10, top + (BAR - 2 * HEIGHT) // 2, name)
        at = LEFT
        for value, shade in zip(values, SHADES, strict=False):
            canvas.box(at, top, round(value * scale), BAR, shade)
            at += round(value * scale)
        canvas.text(at + 8, top + (BAR - 2 * HEIGHT) // 2, " + ".join(f"{value:,.0f}" for value in values))
    return canvas
