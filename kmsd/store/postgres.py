"""The real `Store`: every verb of `kmsd.ports.Store` on Postgres. Each part stands in a module of its own.

A verb is one transaction on one held connection; a batch is one statement over arrays. Errors that mean "the database
is away" come out as DependencyDown("database", …); deadlocks are repeated; everything has a deadline.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.store.ceremonies import Ceremonies
from kmsd.store.connections import Database
from kmsd.store.counts import Counts
from kmsd.store.ingest import Ingest
from kmsd.store.keys import Keys
from kmsd.store.lanes import Lanes
from kmsd.store.notifications import Notifications
from kmsd.store.operator import Operator
from kmsd.store.owners import Owners
from kmsd.store.queue import Queue
from kmsd.store.responses import Responses
from kmsd.store.retention import Retention

__all__ = ["PostgresStore", "open_store"]


class PostgresStore(
    Owners, Ingest, Queue, Ceremonies, Responses, Lanes, Keys, Counts, Retention, Notifications, Operator
):
    """`kmsd.ports.Store` on Postgres, with the operator's verbs besides."""


@asynccontextmanager
async def open_store(
    database_url: str,
    *,
    instance_name: str,
    pool_size: int,
    statement_timeout: float = 15.0,
    health: Health | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[PostgresStore]:
    """A store over `database_url`; connections are opened when verbs need them, so the database may be down.

    `PGUSER`, `PGPASSWORD` and the other `PG*` variables count where the URL is silent. `instance_name` is shown in
    pg_stat_activity. `pool_size` connections at most are held for verbs; heartbeat, notifications and lane have one
    each besides. `statement_timeout` in seconds bounds each verb and each statement.
    """
    database = Database(
        database_url,
        application=f"kmsd {instance_name}",
        pool_size=pool_size,
        statement_timeout=statement_timeout,
        health=health,
        metrics=metrics,
    )
    store = PostgresStore(database)
    try:
        yield store
    finally:
        store.close_presence()
        database.close()
