"""`kmsd show`: the whole story of one request."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import click

from kmsd.commands.identify import kind_named, kind_option, name, parse
from kmsd.commands.options import EXIT_NO, common, print_json, refuse, say, settings_for
from kmsd.wire import otlp

if TYPE_CHECKING:
    from kmsd.store.operator import Story

LONGEST = 80
"""Characters of a value; longer ones are payloads and shown by their size."""

INSTANTS = {
    "created_at": "heard",
    "updated_at": "last change",
    "next_attempt_at": "due",
    "orphaned_at": "orphaned by a reorganisation",
}
"""Columns that are points of the story."""

DETAILS = ("budget_started_at", "otlp_context", "content_hash", "content_epoch", "stale_owner", "log_index")
"""Columns that only `--all` and `--json` show."""


@click.command()
@click.argument("request", metavar="ID")
@kind_option
@click.option("--all", "everything", is_flag=True, help="Every column, payloads whole.")
@common
def show(config: str | None, as_json: bool, request: str, kind_name: str | None, everything: bool) -> None:
    """Tell everything that is known of one request: state, tries, errors, response, transactions, decisions.

    ID: pub:12 (also user, prep, key, crs, reshare, prss), 0x0100…0c, or decimal.
    """
    from kmsd.commands.database import answer
    from kmsd.store.postgres import PostgresStore

    settings = settings_for(config, as_json, ("database_url",)).settings
    request_id, kind = parse(request, as_json)

    async def work(store: PostgresStore) -> Sequence["Story"]:
        return await store.story(request_id, kind_named(kind_name) or kind)

    stories = answer(settings, work, as_json)
    if not stories:
        refuse(f"no request {request} is known here; `kmsd list` shows which are", as_json)
    if as_json:
        print_json({"ok": True, "stories": [_document(story) for story in stories]})
        sys.exit(0)
    for story in stories:
        for line in tell(story, everything=everything):
            say(line)
    sys.exit(EXIT_NO if any(_has_failed(story) for story in stories) else 0)


def _document(story: "Story") -> dict[str, Any]:
    return {
        **attrs.asdict(story),
        "kind": story.kind.value,
        "id": f"{story.id:064x}",
        "name": name(story.kind, story.id),
    }


def _has_failed(story: "Story") -> bool:
    return any(row is not None and row["status"] == "failed" for row in (story.request, story.response))


def tell(story: "Story", *, everything: bool) -> Iterator[str]:
    """The story as lines."""
    yield f"{story.kind.value} {name(story.kind, story.id)}  0x{story.id:064x}"
    for row in (story.request, story.response):
        if row is not None and (trace := _trace(row.get("otlp_context"))):
            yield f"  trace {trace}"
            break
    if story.finished_long_ago and story.request is None:
        yield "  finished long ago: its rows are past their retention, its id is remembered and never repeated"
    if story.request is not None:
        yield from _row("request", story.request, everything)
    if story.response is not None:
        yield from _row("response", story.response, everything)
    for title, rows in (
        ("transactions", story.transactions),
        ("rejected results", story.rejected),
        ("seen by nodes", story.sightings),
        ("withdrawn", story.withdrawn),
        ("quarantine", story.quarantined),
        ("state of the key", story.key_changes),
        ("operators", story.actions),
    ):
        if rows:
            yield f"  {title}"
            for row in rows:
                yield "    " + (_transaction(row) if title == "transactions" else _sentence(row))
    if story.divergence is not None:
        yield "  OUR ANSWER DIFFERS FROM THE COMMITTEE'S: the Core may hold a wrong key"
        yield "    " + _sentence(story.divergence)


def _trace(column: str | None) -> str | None:
    """The trace's id, by which a collector finds it; None where the row has none."""
    try:
        traceparent = otlp.decode(bytes.fromhex((column or "").removeprefix("0x"))).get("traceparent", "")
    except ValueError:
        return None
    return next(iter(traceparent.split("-")[1:2]), None)


def _row(title: str, row: Mapping[str, Any], everything: bool) -> Iterator[str]:
    words = row.get("last_error")
    if words and row["status"] == "completed":
        words = f"before that: {words}"
    yield f"  {title}: {row['status']}" + (f", {_visible(words)}" if words else "")
    for column, words in INSTANTS.items():
        if row.get(column) is not None and (column != "next_attempt_at" or row["status"] == "pending"):
            yield f"    {words:<14} {instant(row[column])}"
    for column, value in row.items():
        hidden = column in ("status", "last_error", *INSTANTS) or (column in DETAILS and not everything)
        if not hidden and value not in (None, False, [], ""):
            yield f"    {column:<14} {_value(column, value, everything)}"


def _transaction(row: Mapping[str, Any]) -> str:
    """`nonce 2.0 final 0x4b2f… status 1 in block 115, signed …, gas limit …`."""
    mined = f" status {row['receipt_status']} in block {row['block_number']}" if row["block_number"] is not None else ""
    error = f": {_visible(row['error'])}" if row["error"] else ""
    return (
        f"nonce {row['nonce']}.{row['attempt']} {row['state']} {row['tx_hash']}{mined}, "
        f"signed {instant(row['signed_at'])}, gas limit {row['gas_limit']}, "
        f"at most {row['max_fee_per_gas'] / 1e9:.4g} gwei{error}"
    )


def _sentence(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{column} {_value(column, value, False)}" for column, value in row.items() if value is not None)


def _value(column: str, value: Any, everything: bool) -> str:
    if column.endswith("_at") and isinstance(value, (int, float)):
        return instant(value)
    if isinstance(value, list):
        return "; ".join(_value(column, item, everything) for item in value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} {_value(key, item, everything)}" for key, item in value.items()) + "}"
    text = str(value)
    if not everything and text.startswith("0x") and len(text) > LONGEST:
        return f"{text[:18]}… ({len(text) // 2 - 1} bytes)"
    return _visible(text)


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in text)


def instant(seconds: float) -> str:
    """`2026-11-25 09:31:05Z (7m 03s ago)`."""
    from kmsd.commands.status_view import duration

    if seconds == float("inf") or seconds > 4e9:
        return "never"
    written = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
    age = time.time() - seconds
    return f"{written} ({duration(age)} ago)" if age >= 0 else f"{written} (in {duration(-age)})"
