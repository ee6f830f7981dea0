"""How far a sandbox's requests are: from the chain (asked, accepted) and from kmsd's tables (stored, sent, answered,
failed); and what the sandbox says at its end: a table for people, a line of JSON for programs (decisions.md 31).
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from rich.table import Table

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.sandbox.observer import Observer
from kmsd.sandbox.postgres import Postgres

FAILURES_SHOWN = 10


@attrs.define
class Count:
    """One kind: requests on chain; those stored, sent to the Core and answered by kmsd; answers that the contract
    accepted (for a kind without an answer: completed requests); requests that kmsd failed.

    `settled` are public decryptions that the other parties had agreed on before kmsd asked its Core, so that it only
    noted them (decisions.md 18); they count as accepted.
    """

    requested: int = 0
    stored: int = 0
    sent: int = 0
    answered: int = 0
    accepted: int = 0
    failed: int = 0
    settled: int = 0


class Progress:
    """Counts of all kinds. `refresh` asks the database; the chain's side is the observer's."""

    def __init__(self, observer: Observer, postgres: Postgres, database: str) -> None:
        self._observer = observer
        self._postgres = postgres
        self._database = database
        self._sql = _counting_sql()
        self.counts: dict[Kind, Count] = {kind: Count() for kind in Kind}
        self.completed_seconds: dict[Kind, list[float]] = {}

    def refresh(self) -> None:
        """Counts again. Before kmsd has made its tables, its columns are zero."""
        rows: Mapping[str, Any] = {}
        if self._postgres.execute(_READY_SQL, self._database) == "t":
            rows = json.loads(self._postgres.execute(self._sql, self._database))
        for kind, count in self.counts.items():
            row = rows.get(kind.value, {})
            count.requested = len(self._observer.requests[kind])
            for name in ("stored", "sent", "answered", "failed", "settled"):
                setattr(count, name, int(row.get(name, 0)))
            if OPERATIONS[kind].response is None:
                count.accepted = int(row.get("completed", 0))
                self.completed_seconds[kind] = row.get("seconds") or []
            else:
                count.settled = min(count.settled, self._observer.agreed_without_us(kind))
                count.accepted = self._observer.accepted(kind) + count.settled

    def accepted(self) -> int:
        """Of all kinds."""
        return sum(count.accepted for count in self.counts.values())

    def missing(self) -> list[str]:
        """What is not accepted, in words, a kind each."""
        return [
            f"{count.requested - count.accepted} of {count.requested} {kind.value} requests are not accepted"
            for kind, count in self.counts.items()
            if count.accepted < count.requested
        ]

    def last_errors(self) -> list[str]:
        """Why requests wait or failed: the newest words of kmsd, different ones only."""
        rows = self._postgres.execute(_errors_sql(), self._database)
        return [line for line in rows.splitlines() if line][:FAILURES_SHOWN]

    def latencies(self, kind: Kind) -> list[float]:
        """Seconds from request to accepted answer; for a kind without an answer, to its completion."""
        if OPERATIONS[kind].response is None:
            return self.completed_seconds.get(kind, [])
        return self._observer.latencies(kind)

    def table(self, title: str = "") -> Table:
        """The counts, with latencies where there are any."""
        table = Table(title=title or None, box=None, padding=(0, 1))
        table.add_column("kind", no_wrap=True)
        for name in ("requested", "stored", "sent", "answered", "accepted", "failed", "p50", "p95", "p99"):
            table.add_column(name, justify="right", no_wrap=True)
        for kind, count in self.counts.items():
            figures = [f"{one:,}" for one in attrs.astuple(count)[:-1]]
            times = [f"{seconds:.2f} s" for seconds in percentiles(self.latencies(kind)).values()]
            table.add_row(kind.value, *figures, *(times or ["", "", ""]))
        return table

    def to_json(self, *, ok: bool, seconds: float) -> str:
        """The last line of `kmsd sandbox --json`."""
        kinds = {
            kind.value: attrs.asdict(count)
            | {
                "latency_ms": {
                    name: round(1000 * value, 1) for name, value in percentiles(self.latencies(kind)).items()
                }
                or {"p50": 0.0, "p95": 0.0, "p99": 0.0}
            }
            for kind, count in self.counts.items()
        }
        return json.dumps({"ok": ok, "seconds": round(seconds, 3), "kinds": kinds})


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 (nearest rank); nothing for nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {f"p{rank}": ordered[max(0, math.ceil(len(ordered) * rank / 100) - 1)] for rank in (50, 95, 99)}


def _counting_sql() -> str:
    """One statement that gives {"kind": {"stored": n, …}, …} for all kinds."""
    parts = []
    for kind, operation in OPERATIONS.items():
        table = operation.request_table
        done = "count(*) FILTER (WHERE status = 'completed')"
        sent = done if operation.response is None else "count(*) FILTER (WHERE already_sent OR status = 'completed')"
        answered = done if operation.response is None else f"(SELECT count(*) FROM {operation.response.table})"
        failed = "count(*) FILTER (WHERE status = 'failed')"
        took = "extract(epoch FROM updated_at - (created_at AT TIME ZONE 'UTC'))"
        more = f", 'seconds', json_agg({took}) FILTER (WHERE status = 'completed')"
        if operation.response is not None:
            answers, column = operation.response.table, operation.id_column
            failed += f" + (SELECT count(*) FROM {answers} WHERE status = 'failed')"
            unanswered = f"NOT EXISTS (SELECT FROM {answers} AS a WHERE a.{column} = r.{column})"
            more = f", 'settled', count(*) FILTER (WHERE status = 'completed' AND {unanswered})"
        parts.append(
            f"'{kind.value}', (SELECT json_build_object('stored', count(*), 'sent', {sent}, 'answered', {answered}, "
            f"'completed', {done}, 'failed', {failed}{more}) FROM {table} AS r)"
        )
    return "SELECT json_build_object(" + ", ".join(parts) + ")"


def _errors_sql() -> str:
    columns = ((one.request_table, one.id_column) for one in OPERATIONS.values())
    parts = (
        f"SELECT '{table}' AS place, status::text, last_error, updated_at FROM {table} "
        "WHERE status <> 'completed' AND last_error IS NOT NULL"
        for table, _ in columns
    )
    return (
        "SELECT place || ' (' || status || ', ' || count(*) || '): ' || last_error FROM ("
        + " UNION ALL ".join(parts)
        + ") AS e GROUP BY place, status, last_error ORDER BY max(updated_at) DESC"
    )


_READY_SQL = "SELECT to_regclass('kmsd_owners') IS NOT NULL"
"""Whether kmsd's migrations are through."""
