"""The migrations' runner (PR7): under a lock, recorded with checksums, adopting the Rust connector's database in place.

A database is one of four: empty; kmsd's own; made by the Rust connector at v0.11 (recognised by its tables); or one
that is refused by name: made by a newer kmsd, by an older or newer Rust connector, or changed by hand.
"""

import logging
from collections.abc import Mapping, Sequence

import attrs
import trio

from kmsd.operations.kinds import Kind
from kmsd.operations.table import DECRYPTIONS, OPERATIONS
from kmsd.ports import IdentityMismatch
from kmsd.store.connections import Database, Session
from kmsd.store.sql import Migration, migrations, query
from kmsd.store.tables import REQUEST_TABLES, RESPONSE_TABLES

log = logging.getLogger("kmsd.store")

REFERENCE_VERSION = 1
"""The migration that a database of the Rust connector has already."""
FIRST_NEWER = 20_260_226
"""Date of the first migration of the Rust connector after v0.11 (reference-connector.md 2.9)."""
LOCK_PATIENCE = 60.0
"""Seconds to wait for another process that migrates."""
STATEMENT_TIMEOUT = 15.0
"""Seconds for looking."""
DEADLINE = 1_800.0
"""Seconds for one migration; indexes of large tables take a while."""


class DatabaseRefused(IdentityMismatch):
    """A database that this kmsd must not touch; the words say why and what to do (exit 78)."""


@attrs.frozen
class Status:
    """Where a database stands: applied versions, those still to come, and whether the Rust connector made it."""

    applied: Sequence[int]
    pending: Sequence[Migration]
    adopted: bool


async def status(database_url: str) -> Status:
    """Look without changing anything. Raises DependencyDown, DatabaseRefused."""
    database = _database(database_url)
    async with database.dedicated() as session:
        with database.faults(), trio.fail_after(database.statement_timeout):
            return await _status(session)


async def migrate(database_url: str) -> Sequence[Migration]:
    """Apply what is missing, each migration in a transaction of its own; what was applied.

    A process that finds another one migrating waits for it. Raises DependencyDown, DatabaseRefused.
    """
    database = _database(database_url)
    async with database.dedicated() as session:
        with database.faults():
            with trio.fail_after(database.statement_timeout):
                if not (await _status(session)).pending:
                    return ()
            await _lock(session)
            with trio.fail_after(database.statement_timeout):
                await session.fetch(query("relax_timeouts"))
                found = await _status(session)
            for migration in found.pending:
                with trio.fail_after(DEADLINE):
                    await _apply(session, migration, adopted=found.adopted and migration.version == REFERENCE_VERSION)
    return found.pending


def _database(url: str) -> Database:
    return Database(url, application="kmsd migrate", pool_size=1, statement_timeout=STATEMENT_TIMEOUT)


async def _lock(session: Session) -> None:
    with trio.fail_after(LOCK_PATIENCE):
        while not await session.value(query("try_migration_lock")):  # noqa: ASYNC110
            await trio.sleep(0.2)


async def _apply(session: Session, migration: Migration, *, adopted: bool) -> None:
    started = trio.current_time()
    await session.execute("BEGIN")
    await session.fetch(query("make_ledger"))
    if not adopted:
        await session.execute(migration.text)
    await session.fetch(
        query("record_migration"),
        migration.version,
        migration.name,
        migration.checksum,
        adopted,
        trio.current_time() - started,
    )
    await session.execute("COMMIT")
    done = "adopted from the Rust connector" if adopted else f"applied in {trio.current_time() - started:.1f} s"
    log.info("migration %04d %s %s", migration.version, migration.name, done)


async def _status(session: Session) -> Status:
    tables = {row[0] for row in await session.fetch(query("tables_here"))}
    known = migrations()
    if "kmsd_migrations" not in tables:
        reference = _reference_tables()
        here = reference & tables
        if not here:
            return Status((), known, False)
        await _check_reference(session, tables)
        return Status((), known, True)
    rows = await session.fetch(query("applied_migrations"))
    applied = [row["version"] for row in rows]
    by_version = {migration.version: migration for migration in known}
    for row in rows:
        ours = by_version.get(row["version"])
        if ours is None:
            raise DatabaseRefused(
                f"the database has migration {row['version']:04d} {row['name']}, which this kmsd does not know: "
                "it was used by a newer kmsd; run that one"
            )
        if ours.checksum != row["checksum"]:
            raise DatabaseRefused(
                f"migration {row['version']:04d} {row['name']} was applied with another text than this kmsd's: "
                "one of the two was changed by hand; compare their versions"
            )
    if "_sqlx_migrations" in tables:
        await _check_sqlx(session)
    return Status(applied, [m for m in known if m.version not in applied], any(row["adopted"] for row in rows))


def _reference_tables() -> set[str]:
    names = {table.name for table in REQUEST_TABLES.values()} | {table.name for table in RESPONSE_TABLES.values()}
    return names | {"last_block_polled"}


async def _check_reference(session: Session, tables: set[str]) -> None:
    """Raises DatabaseRefused unless these are exactly the tables and columns of v0.11."""
    if "_sqlx_migrations" in tables:
        await _check_sqlx(session)
    if missing := sorted(_reference_tables() - tables):
        raise DatabaseRefused(
            f"the database looks like an older Rust connector's: {', '.join(missing)} missing; "
            "upgrade that to v0.11 first, or use an empty database"
        )
    columns: dict[str, set[str]] = {}
    for row in await session.fetch(query("columns_here"), sorted(_reference_tables())):
        columns.setdefault(row[0], set()).add(row[1])
    for name, expected in _reference_columns().items():
        if missing := sorted(expected - columns[name]):
            raise DatabaseRefused(
                f"the table {name} lacks {', '.join(missing)}: not the schema of the Rust connector v0.11; "
                "upgrade that to v0.11 first, or use an empty database"
            )
        if "_sqlx_migrations" not in tables and (newer := sorted(columns[name] - expected)):
            raise DatabaseRefused(
                f"the table {name} has {', '.join(newer)}, which v0.11 of the Rust connector did not: this kmsd is for "
                "networks at v0.11"
            )


def _reference_columns() -> Mapping[str, set[str]]:
    common = {"status", "created_at", "updated_at", "otlp_context"}
    found: dict[str, set[str]] = {}
    for kind, table in REQUEST_TABLES.items():
        own = set(table.columns) | {OPERATIONS[kind].id_column} | common | {"tx_hash"}
        if kind not in (Kind.PRSS_INIT, Kind.KEY_RESHARE):
            own.add("already_sent")
        if kind in DECRYPTIONS:
            own.add("error_counter")
        found[table.name] = own
    for kind, response in RESPONSE_TABLES.items():
        found[response.name] = set(response.columns) | {OPERATIONS[kind].id_column} | common
    return found


async def _check_sqlx(session: Session) -> None:
    """Raises DatabaseRefused when the Rust connector's own record names a migration after v0.11, or one that failed."""
    for row in await session.fetch(query("sqlx_migrations")):
        version, description, success = row["version"], row["description"], row["success"]
        if not success:
            raise DatabaseRefused(
                f"migration {version} ({description}) of the Rust connector failed half way: repair it with its tools"
            )
        if int(str(version)[:8]) >= FIRST_NEWER:
            raise DatabaseRefused(
                f"the database was migrated by a Rust connector newer than v0.11: migration {version} ({description}); "
                "this kmsd is for networks at v0.11"
            )
