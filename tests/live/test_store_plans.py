"""Every query of sql/queries reads what it needs and no more, however large the tables are.

`KMSD_STORE_ROWS` rows (20,000; `make explain`: 1,000,000) lie in the largest tables. Each query is tried with the plan
of a daemon that started when they were empty, and with one that knows their statistics.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import pytest
from query_plans import CASES, Case, MayScan
from store_world import ID_TYPES, Unretrieved

from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES
from kmsd.store import connections
from kmsd.store.connections import Database, Session
from kmsd.store.sql import names, query
from kmsd.store.tables import table_query

ROWS = int(os.environ.get("KMSD_STORE_ROWS", "20000"))
FILLING = Path(__file__).resolve().parents[1] / "large_database.sql"
SMALL = {"kmsd_owners", "kmsd_cursors", "kmsd_lanes", "kmsd_ceremony", "kmsd_meta", "kmsd_owners_epoch_seq"}
"""Tables of some rows: reading all of one is no fault."""
BLOCK_ROWS = 16
STATEMENTS_DEADLINE = 600.0


def rows_of(kind: Kind) -> int:
    """How many rows tests/large_database.sql puts into the tables of a kind."""
    return {Kind.PUBLIC_DECRYPTION: ROWS, Kind.USER_DECRYPTION: ROWS // 5}.get(kind, max(2000, ROWS // 100))


@attrs.frozen
class Probe:
    """One query over one table, prepared under a name of its own."""

    name: str
    statement: str
    sql: str
    parameters: str
    rows: int
    buffers: int

    @property
    def call(self) -> str:
        """Runs it, once it is prepared."""
        return f"EXECUTE {self.statement}" + (f"({self.parameters})" if self.parameters else "")


def probes() -> Iterator[Probe]:
    """Every query that must not scan, over every table that it is used with."""
    for name, case in CASES.items():
        if isinstance(case, MayScan):
            continue
        for kind, is_response in case.tables:
            if case.scans_ceremonies and kind in CEREMONIES:
                continue
            rows = rows_of(kind)
            share = rows // 50
            values = {
                "type": int(ID_TYPES.get(kind, 0)),
                "done": 100,
                "pending": rows - 3 * share + 2,
                "leased": rows - 2 * share + 1,
                "failed": rows - share + 1,
                "absent": rows + 1,
                "head": rows // BLOCK_ROWS,
                "carrier": f"kmsd_{kind.value}_{'answer' if is_response else 'event'}",
            }
            limits = (case.rows, case.buffers) if isinstance(case, Case) else (8 * share + 400, 160 * share + 4000)
            yield Probe(
                name=f"{name} ({kind.value} {'responses' if is_response else 'requests'})",
                statement=f"p_{name}_{kind.name}_{is_response}".lower(),
                sql=query(name) if is_response is None else table_query(name, kind, is_response=is_response),
                parameters=case.parameters.format(**values),
                rows=limits[0],
                buffers=limits[1],
            )


@attrs.frozen
class Reading:
    """What a plan did: whole tables that it read, rows that its scans looked at, pages that it touched."""

    scanned: tuple[str, ...]
    rows: int
    buffers: int


def reading_of(plan: dict[str, Any]) -> Reading:
    """Sum up a plan of EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)."""
    scanned: list[str] = []
    rows = 0.0
    stack = [plan]
    while stack:
        node = stack.pop()
        stack += node.get("Plans", [])
        if node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan"):
            seen = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
            rows += node["Actual Loops"] * sum(node.get(name, 0) for name in seen)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] not in SMALL:
            scanned.append(node["Relation Name"])
    return Reading(tuple(scanned), round(rows), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.fixture
def database(asyncio_loop: Unretrieved, database_url: str) -> Database:
    """Connections of the daemon's making, with its settings."""
    return Database(database_url, pool_size=1, statement_timeout=STATEMENTS_DEADLINE)


async def tried(session: Session, probe: Probe) -> Reading:
    """Run a prepared statement and take back what it changed."""
    await session.execute("BEGIN")
    rows = await session.fetch(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {probe.call}")
    await session.execute("ROLLBACK")
    (document,) = json.loads(rows[0][0])
    return reading_of(document["Plan"])


async def faults(session: Session, when: str) -> list[str]:
    """What reads too much."""
    found = []
    for probe in probes():
        try:
            reading = await tried(session, probe)
        except asyncpg.PostgresError as error:
            found.append(f"{probe.name}: {error}")
            await session.execute("ROLLBACK")
            continue
        if reading.scanned or reading.rows > probe.rows or reading.buffers > probe.buffers:
            found.append(
                f"{probe.name}, {when}: {reading.rows} rows (at most {probe.rows}), {reading.buffers} pages "
                f"(at most {probe.buffers}){', scans ' + ', '.join(reading.scanned) if reading.scanned else ''}"
            )
    return found


def test_every_query_has_its_case() -> None:
    assert sorted(names()) == sorted(CASES)
    assert all(case.reason for case in CASES.values() if isinstance(case, MayScan))


async def test_no_query_reads_more_than_it_needs(database: Database, sql: Callable[[str], str]) -> None:
    sql(FILLING.read_text())
    async with database.dedicated() as early, database.dedicated() as session:
        for probe in probes():
            await early.execute(f"PREPARE {probe.statement} AS {probe.sql}")
            await early.execute(f"EXPLAIN {probe.call}")
        await session.fetch(f"SELECT fill({ROWS})")
        found = await faults(early, "planned when the tables were empty")
        await early.execute("DISCARD PLANS")
        found += await faults(early, "planned without statistics")
        await session.execute("VACUUM ANALYZE")
        found += await faults(early, "planned with statistics")
    assert not found, "\n" + "\n".join(found)


async def test_plans_are_made_anew_after_a_while(
    database: Database, sql: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(FILLING.read_text())
    (probe,) = (p for p in probes() if p.name == "claim (public_decryption requests)")
    async with database.dedicated() as session:
        await session.execute("ANALYZE")
        await session.execute(f"PREPARE {probe.statement} AS {probe.sql}")
        await session.execute(f"EXPLAIN {probe.call}")
        sql("SELECT fill(20000)")
        await session.refresh()
        before = await tried(session, probe)
        monkeypatch.setattr(connections, "PLAN_LIFETIME", 0.0)
        await session.refresh()
        after = await tried(session, probe)
    assert before.rows > 10_000
    assert after.rows <= probe.rows
