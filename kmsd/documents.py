"""Writes the documents that are made from code: `python -m kmsd.documents [--check]`, in a checkout.

With `--check` nothing is written; the exit status is 1 when a document is out of step.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from kmsd.configuring.document import configuration_markdown, example_toml
from kmsd.observe.alert_rules import alert_rules, alerts_markdown
from kmsd.observe.dashboard import dashboard
from kmsd.observe.document import metrics_markdown
from kmsd.operations.key_document import keys_markdown

DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "kmsd.toml.example": example_toml,
    "docs/configuration.md": configuration_markdown,
    "docs/keys.md": keys_markdown,
    "docs/metrics.md": metrics_markdown,
    "deploy/prometheus-alerts.yml": alert_rules,
    "deploy/grafana-dashboard.json": dashboard,
}
"""Path in the checkout → its text."""

SECTIONS: Mapping[str, Callable[[], str]] = {
    "docs/operating.md": alerts_markdown,
}
"""Path in the checkout → what stands between its marks BEGIN and END; the rest is written by hand."""

BEGIN, END = "<!-- made by python -m kmsd.documents: do not edit -->\n", "<!-- end of what is made -->\n"

CHECKOUT = Path(__file__).resolve().parent.parent


def stale(checkout: Path = CHECKOUT) -> list[str]:
    """Documents that differ from what the code says."""
    return [path for path, text in _texts(checkout).items() if _read(checkout / path) != text]


def write(checkout: Path = CHECKOUT) -> None:
    """Write every document anew."""
    for path, text in _texts(checkout).items():
        (checkout / path).parent.mkdir(exist_ok=True)
        (checkout / path).write_text(text, encoding="utf-8")


def _texts(checkout: Path) -> dict[str, str]:
    """Every document as it should be. Raises ValueError where a section's marks are missing."""
    texts = {path: text() for path, text in DOCUMENTS.items()}
    for path, section in SECTIONS.items():
        before, begin, rest = (_read(checkout / path) or "").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{path} has no section between {BEGIN.strip()} and {END.strip()}")
        texts[path] = f"{before}{BEGIN}\n{section()}\n{END}{after}"
    return texts


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        out_of_step = stale()
        for name in out_of_step:
            print(f"{name} is out of step with the code: run python -m kmsd.documents", file=sys.stderr)
        sys.exit(1 if out_of_step else 0)
    write()
