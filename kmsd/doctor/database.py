"""The doctor's look at the database."""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import trio_asyncio

from kmsd import redact
from kmsd.config import Settings
from kmsd.doctor.findings import Finding, error, ok, warning
from kmsd.ports import DependencyDown, Time
from kmsd.store import migrations
from kmsd.store.sql import query
from kmsd.wire.addresses import to_checksum

CONNECT_TIMEOUT = 5.0
"""Seconds for connecting and for each statement."""
SKEW = 5.0
"""Seconds by which the database's clock may differ: leases are judged by its clock, latencies by both."""
OLDEST = 140_000
"""`server_version_num` of PostgreSQL 14."""
SPARE = 10
"""Connections that should be left beside our pool."""

FACTS = """
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS version_text,
       extract(epoch FROM clock_timestamp())::float8 AS now, pg_is_in_recovery() AS is_standby,
       current_setting('max_connections')::int AS max_connections,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       to_regclass('kmsd_meta') IS NOT NULL AS has_identity
"""


async def database(settings: Settings, time: Time) -> Sequence[Finding]:
    """Version, clock, rights, room for our connections, schema and migrations, whose network it holds.

    Needs a trio-asyncio loop around it.
    """
    try:
        connection = await trio_asyncio.aio_as_trio(asyncpg.connect)(
            settings.database_url, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT
        )
        fetch_row = trio_asyncio.aio_as_trio(connection.fetchrow)
        try:
            before = time.now()
            row = await fetch_row(FACTS)
            after = time.now()
            assert row is not None
            meta = await fetch_row(query("read_meta")) if row["has_identity"] else None
        finally:
            connection.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as refusal:
        words = redact.KNOWN(str(refusal)) or type(refusal).__name__
        remedy = "Start PostgreSQL, or correct database_url, PGUSER and PGPASSWORD."
        return [error("database", words.splitlines()[0], remedy)]
    facts = dict(row)
    found = [*_server(facts, (before + after) / 2, settings.database_pool_size), *await _schema(settings, facts)]
    return [*found, *_network(settings, dict(meta))] if meta is not None else found


def _server(facts: Mapping[str, Any], now: float, pool_size: int) -> Sequence[Finding]:
    found = [ok("database", f"PostgreSQL {facts['version_text']}")]
    if facts["version"] < OLDEST:
        found = [error("database", f"PostgreSQL {facts['version_text']} is older than 14", "Upgrade PostgreSQL.")]
    if facts["is_standby"]:
        found.append(error("database", "is a read-only standby", "Point database_url at the primary."))
    skew = facts["now"] - now
    if abs(skew) > SKEW:
        words = f"its clock differs from ours by {skew:+.1f} s"
        found.append(warning("database clock", words, "Run NTP on both machines."))
    else:
        found.append(ok("database clock", f"{skew:+.2f} s from ours"))
    room = facts["max_connections"] - pool_size
    if room < SPARE:
        words = f"max_connections is {facts['max_connections']}, our pool takes {pool_size} and a few more"
        found.append(warning("database connections", words, "Lower database_pool_size or raise max_connections."))
    return found


async def _schema(settings: Settings, facts: Mapping[str, Any]) -> Sequence[Finding]:
    """Whose schema it is, and which migrations are missing."""
    subject = "database schema"
    try:
        status = await migrations.status(settings.database_url)
    except migrations.DatabaseRefused as refused:
        return [error(subject, str(refused), "kmsd does not start on it; see docs/migrating.md.")]
    except DependencyDown as down:
        return [error(subject, redact.KNOWN(down.detail), "kmsd's user must be able to read the schema.")]
    missing = ", ".join(f"{one.version:04d} {one.name}" for one in status.pending)
    if not missing:
        return [ok(subject, f"up to date: {len(status.applied)} migrations")]
    if not facts["may_create"]:
        remedy = "Grant CREATE on the database to kmsd's user, or run kmsd migrate as its owner."
        return [error(subject, f"lacks {missing}, and we may not create tables", remedy)]
    if status.adopted:
        return [ok(subject, "of the Rust connector; adopted at the first start, its binaries still run on it")]
    if not status.applied:
        return [ok(subject, "empty; made at the first start")]
    return [warning(subject, f"lacks {missing}", "The next start applies them; or run kmsd migrate now.")]


def _network(settings: Settings, meta: Mapping[str, Any]) -> Sequence[Finding]:
    """Does the database belong to the configured network?"""
    subject = "database network"
    there = (int(meta["gateway_chain_id"]), bytes(meta["decryption_contract"]), bytes(meta["kms_generation_contract"]))
    ours = (
        settings.gateway_chain_id,
        settings.decryption_contract.address,
        settings.kms_generation_contract.address,
    )
    words = f"chain {there[0]}, Decryption {to_checksum(there[1])}, KMSGeneration {to_checksum(there[2])}"
    if there != ours:
        remedy = "Use a database of its own for each network, or correct gateway_chain_id and the contracts' addresses."
        return [error(subject, f"it belongs to {words}", remedy)]
    return [ok(subject, words)]
