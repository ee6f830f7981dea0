"""Each sibling alone in one process, with its work laid out: what one listener, one worker, one sender can do.

The listener and the sender are set on the node double, which allows more than anvil. What a sibling did is read from
the database's own instants, from the first to the last, so that start and polling are not in the figure.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from bench.figures import Figures
from bench.measured import Measured
from kmsd.sandbox.process import python_process
from kmsd.sandbox.rpc import RpcClient
from kmsd.wire.ids import IdType, to_db

DOUBLE_BLOCKS = 0.05
"""Seconds between blocks of the double."""
IDS_A_STATEMENT = 1000
REQUESTS, RESPONSES = "public_decryption_requests", "public_decryption_responses"
PAUSE_SECONDS = 1.5
"""For which a daemon is left to itself before work is laid before it: its start is no part of the figure."""


def ingest(bench: Measured) -> Figures:
    """The listener alone: events of the double → stored rows."""
    with _double(bench, "--events", str(bench.load.public), "--held") as (url, double):
        return _alone(
            bench,
            "listener",
            url,
            lambda: double.call("double_setInterval", DOUBLE_BLOCKS),
            f"SELECT count(*) FROM {REQUESTS}",
            f"budget_started_at FROM {REQUESTS}",
        )


def work(bench: Measured) -> Figures:
    """The worker alone: rows that appear at once → stored responses."""
    _lay_out_rows(bench)
    return _alone(
        bench,
        "worker",
        bench.world.gateway.url,
        lambda: bench.sql(f"INSERT INTO {REQUESTS} SELECT * FROM stash"),
        f"SELECT count(*) FROM {RESPONSES}",
        f"budget_started_at FROM {RESPONSES}",
    )


def send(bench: Measured) -> Figures:
    """The sender alone: stored responses that appear at once → accepted transactions on the double."""
    ids = [to_db((IdType.PUBLIC_DECRYPTION << 248) + number).hex() for number in range(1, bench.load.public + 1)]

    def appear() -> None:
        for start in range(0, len(ids), IDS_A_STATEMENT):
            values = ",".join(f"'{one}'" for one in ids[start : start + IDS_A_STATEMENT])
            bench.sql(
                f"INSERT INTO {RESPONSES} "
                "(decryption_id, decrypted_result, signature, extra_data, created_at, otlp_context) "
                "SELECT decode(id, 'hex'), decode(repeat('00', 32), 'hex'), decode(repeat('1b', 65), 'hex'), "
                f"decode('00', 'hex'), now(), '' FROM unnest(ARRAY[{values}]) AS i (id)"
            )

    with _double(bench) as (url, _):
        done = "WHERE status = 'completed'"
        return _alone(
            bench,
            "sender",
            url,
            appear,
            f"SELECT count(*) FROM {RESPONSES} {done}",
            f"updated_at FROM {RESPONSES} {done}",
        )


def silent_rows(bench: Measured) -> Figures:
    """A whole daemon before rows that are there without a notification: found by polling, drained to acceptance."""
    _lay_out_rows(bench)
    bench.restart_with(roles=["worker", "sender", "listener", "gc"])
    time.sleep(PAUSE_SECONDS)

    def appear() -> None:
        bench.sql(
            f"ALTER TABLE {REQUESTS} DISABLE TRIGGER USER; INSERT INTO {REQUESTS} SELECT * FROM stash; "
            f"ALTER TABLE {REQUESTS} ENABLE TRIGGER USER"
        )

    return bench.serve(appear)


def _lay_out_rows(bench: Measured) -> None:
    """The load's requests as rows of a table `stash`, ready to be copied back; no daemon runs."""
    calls, total = bench.prepare(), bench.load.total
    bench.restart_with(roles=["listener"])
    bench.ask(calls)
    count = f"SELECT count(*) FROM {REQUESTS}"
    bench.until(lambda: int(bench.sql(count)) == total, watch=lambda: bench.sql(count))
    bench.world.stop_daemon()
    bench.sql(f"CREATE TABLE stash AS SELECT * FROM {REQUESTS}; TRUNCATE {REQUESTS}")


@contextmanager
def _double(bench: Measured, *options: str) -> Iterator[tuple[str, RpcClient]]:
    """The node double in the place of the Gateway: its URL, and a client of it."""
    world = bench.world
    deployment = world.deployment
    words = ["--chain-id", str(deployment.gateway_chain_id), "--host-chain-id", str(deployment.host_chain_id)]
    words += ["--decryption", deployment.decryption.hex(), *options]
    double = python_process("double", "bench.double", words, world.folder)
    double.start()
    try:
        ready = double.ready_line(60.0)
        bench.parts["node double"] = double.pid
        yield ready["url"], RpcClient(ready["port"])
    finally:
        world.stop_daemon()
        double.kill()


def _alone(bench: Measured, role: str, url: str, go: Callable[[], object], count: str, instants: str) -> Figures:
    """A daemon of one role on the node at `url`: what it takes from `go` until `count` is the load's total.

    `instants` names the column of the database's instants, from the first to the last of which the rate is reckoned.
    """
    if not bench.is_prepared:
        bench.world.start_daemon()
        bench.until(lambda: bench.sql("SELECT to_regclass('kmsd_owners') IS NOT NULL") == "t")
    bench.restart_with(roles=[role], gateway_nodes=[{"name": "alone", "url": url}])
    time.sleep(PAUSE_SECONDS)
    before, total = bench.snapshot(), bench.load.total
    go()
    bench.until(lambda: int(bench.sql(count)) == total, watch=lambda: bench.sql(count))
    used = bench.snapshot().since(before)
    column, _, rest = instants.partition(" ")
    first = f"count(*) FILTER (WHERE {column} = (SELECT min({column}) {rest}))"
    span = f"extract(epoch FROM max({column}) - min({column}))"
    at_first, seconds = bench.sql(f"SELECT {first}, {span} {rest}").split("|")
    figures = bench.figures(used, total, used.at)
    if float(seconds) == 0.0:
        return figures
    return attrs.evolve(figures, accepted_per_s=round((total - int(at_first)) / float(seconds), 1))
