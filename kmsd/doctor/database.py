"""The doctor's look at the database."""

from collections.abc import Sequence

import asyncpg
import trio_asyncio

from kmsd import redact
from kmsd.doctor.findings import Finding, error, ok, warning
from kmsd.ports import Time

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
       to_regclass('public.kmsd_meta') IS NOT NULL AS is_ours,
       to_regclass('public._sqlx_migrations') IS NOT NULL AS is_rust
"""


async def database(url: str, pool_size: int, time: Time) -> Sequence[Finding]:
    """Version, clock, rights, room for our connections, whose schema it holds. Needs a trio-asyncio loop around it."""
    try:
        connection = await trio_asyncio.aio_as_trio(asyncpg.connect)(
            url, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT
        )
        try:
            before = time.now()
            row = await trio_asyncio.aio_as_trio(connection.fetchrow)(FACTS)
            after = time.now()
        finally:
            connection.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as refusal:
        words = redact.KNOWN(str(refusal)) or type(refusal).__name__
        remedy = "Start PostgreSQL, or correct database_url, PGUSER and PGPASSWORD."
        return [error("database", words.splitlines()[0], remedy)]
    assert row is not None
    return list(_judge(dict(row), (before + after) / 2, pool_size))


def _judge(facts: dict[str, object], now: float, pool_size: int) -> Sequence[Finding]:
    found = [ok("database", f"PostgreSQL {facts['version_text']}")]
    if int(str(facts["version"])) < OLDEST:
        words = f"PostgreSQL {facts['version_text']} is older than 14"
        found = [error("database", words, "Upgrade PostgreSQL.")]
    if facts["is_standby"]:
        found.append(error("database", "is a read-only standby", "Point database_url at the primary."))
    skew = float(str(facts["now"])) - now
    if abs(skew) > SKEW:
        words = f"its clock differs from ours by {skew:+.1f} s"
        found.append(warning("database clock", words, "Run NTP on both machines."))
    room = int(str(facts["max_connections"])) - pool_size
    if room < SPARE:
        words = f"max_connections is {facts['max_connections']}, our pool takes {pool_size} and a few more"
        found.append(warning("database connections", words, "Lower database_pool_size or raise max_connections."))
    if facts["is_ours"]:
        found.append(ok("database schema", "kmsd's; `kmsd migrate --check` says whether it is up to date"))
    elif facts["is_rust"]:
        found.append(ok("database schema", "of the Rust connector; adopted at the first start"))
    elif not facts["may_create"]:
        remedy = "Grant CREATE on the database to kmsd's user, or run kmsd migrate as its owner."
        found.append(error("database schema", "empty, and we may not create tables", remedy))
    else:
        found.append(ok("database schema", "empty; made at the first start"))
    return found
