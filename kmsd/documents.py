"""Writes the documents that are made from code: `python -m kmsd.documents [--check]`, in a checkout.

With `--check` nothing is written; the exit status is 1 when a document is out of step.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from kmsd.configuring.document import configuration_markdown, example_toml
from kmsd.observe.document import metrics_markdown

DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "kmsd.toml.example": example_toml,
    "docs/configuration.md": configuration_markdown,
    "docs/metrics.md": metrics_markdown,
}
"""Path in the checkout → its text."""

CHECKOUT = Path(__file__).resolve().parent.parent


def stale(checkout: Path = CHECKOUT) -> list[str]:
    """Documents that differ from what the code says."""
    return [path for path, text in DOCUMENTS.items() if _read(checkout / path) != text()]


def write(checkout: Path = CHECKOUT) -> None:
    """Write every document anew."""
    for path, text in DOCUMENTS.items():
        (checkout / path).parent.mkdir(exist_ok=True)
        (checkout / path).write_text(text(), encoding="utf-8")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        out_of_step = stale()
        for name in out_of_step:
            print(f"{name} is out of step with the code: run python -m kmsd.documents", file=sys.stderr)
        sys.exit(1 if out_of_step else 0)
    write()
