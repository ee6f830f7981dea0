"""A party changes from the Rust connector to kmsd in the middle of its work: the daemon drains what is there (PR7).

What the Rust connector would have in its tables is made by kmsd itself, role by role, and carried over into a database
of that connector's schema, column by column: finished ceremonies, answers that wait to be sent or were being sent, and
requests that wait, were in hand when the old worker died, or were given up.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rust_connector as rust

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.sandbox.world import DATABASE, Plan, World
from kmsd.store.tables import REQUEST_TABLES, RESPONSE_TABLES

PUBLIC, USER = Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION
RUST = "rust_connector"
EACH = 6
"""Decryptions of each kind that have an answer at the change, and as many that have none."""


class Change:
    """One world with two databases: the one that the rows come from, and the Rust connector's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.observer = world.observer()
        self.requester = world.requester()

    def sql(self, statement: str, database: str = DATABASE) -> str:
        return self.world.postgres.execute(statement, database)

    def count(self, table: str, condition: str, database: str = DATABASE) -> int:
        return int(self.sql(f"SELECT count(*) FROM {table} WHERE {condition}", database))

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while self.observer.look():
                pass
            if condition():
                return
            assert self.world.daemon.alive(), self.world.daemon.log_tail()
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds:g} s: {what}; {self.world.daemon.log_tail()}")

    def serve(self, roles: list[str], condition: Callable[[], Any], what: str) -> None:
        """Run a daemon with these roles on the first database until something is so."""
        config = self.world.config_file
        whole = config.read_text()
        config.write_text(f"roles = {roles}\n{whole}")
        self.world.start_daemon()
        self.until(condition, what)
        assert self.world.stop_daemon() == 0
        config.write_text(whole)

    def ask(self, key_id: int) -> None:
        prepared = self.requester.prepare(EACH, EACH, key_id)
        self.requester.send(self.requester.calls(prepared, burst=True))

    def carry_over(self) -> None:
        """Copy the reference's columns of every table into a database of its schema."""
        self.world.postgres.create_database(RUST)
        self.sql(rust.SCHEMA.read_text(), RUST)
        tables = [table.name for table in REQUEST_TABLES.values()] + [table.name for table in RESPONSE_TABLES.values()]
        for table in tables:
            columns = self.sql(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
                f"WHERE attrelid = '{table}'::regclass AND attnum > 0",
                RUST,
            )
            # A response's trigger completes its request, as it did for the Rust worker.
            for row in self.sql(
                f"SELECT quote_literal(r::text) FROM (SELECT {columns} FROM {table}) AS r"
            ).splitlines():
                self.sql(f"INSERT INTO {table} SELECT ({row}::{table}).*", RUST)
        head = self.world.gateway.block_number()
        for operation in OPERATIONS.values():
            self.sql(rust.move_cursor(operation.event_type, head), RUST)


@pytest.fixture
def change() -> Iterator[Change]:
    with World(Plan(slow_party=None)) as world:
        yield Change(world)


@pytest.mark.guarantee("PR7")
def test_a_party_changes_in_the_middle_of_its_work(change: Change) -> None:
    change.world.start_daemon()
    change.requester.prss_init()
    change.requester.keygen()
    change.until(lambda: change.observer.active_keys and change.observer.accepted(Kind.KEYGEN), "a key")
    assert change.world.stop_daemon() == 0
    change.world.committee.stop()
    key_id = change.observer.active_keys[0]
    for decided in (True, False):
        change.ask(key_id)
        wanted = "status = 'completed'" if decided else "status = 'pending'"
        change.serve(
            ["listener", "worker"] if decided else ["listener"],
            lambda wanted=wanted: all(
                change.count(REQUEST_TABLES[kind].name, wanted) == EACH for kind in (PUBLIC, USER)
            ),
            wanted,
        )
    change.carry_over()
    for kind in (PUBLIC, USER):
        table, responses = REQUEST_TABLES[kind].name, RESPONSE_TABLES[kind].name
        some = "decryption_id IN (SELECT decryption_id FROM {} WHERE status = 'pending' ORDER BY 1 LIMIT {})"
        change.sql(f"UPDATE {responses} SET status = 'under_process' WHERE {some.format(responses, 3)}", RUST)
        change.sql(f"UPDATE {table} SET status = 'failed' WHERE {some.format(table, 1)}", RUST)
        change.sql(
            f"UPDATE {table} SET status = 'under_process', already_sent = true WHERE {some.format(table, 2)}", RUST
        )
        states = change.sql(f"SELECT status, count(*) FROM {table} GROUP BY 1 ORDER BY 1", RUST).split()
        assert states == ["pending|3", "under_process|2", "completed|6", "failed|1"]

    config = change.world.config_file
    config.write_text(config.read_text().replace(f"/{DATABASE}", f"/{RUST}"))
    served = 2 * EACH - 1
    change.world.start_daemon()
    change.until(
        lambda: all(change.observer.accepted(kind) == served for kind in (PUBLIC, USER)),
        "everything unfinished answered",
    )
    for kind in (PUBLIC, USER):
        table, responses = REQUEST_TABLES[kind].name, RESPONSE_TABLES[kind].name
        change.until(lambda r=responses: change.count(r, "status = 'completed'", RUST) == served, "responses completed")
        states = change.sql(f"SELECT status, count(*) FROM {table} GROUP BY 1 ORDER BY 1", RUST).split()
        assert states == [f"completed|{served}", "failed|1"], "what the old connector gave up is left to the operator"
    assert change.world.stop_daemon() == 0
    assert not change.observer.answered_twice()
    sent = "SELECT count(*), count(DISTINCT id) FROM kmsd_transactions WHERE id IS NOT NULL"
    assert change.sql(sent, RUST) == f"{2 * served}|{2 * served}", "no answer was sent twice"
    retried = subprocess.run(
        [sys.executable, "-m", "kmsd", "retry", "--all-failed", "--yes", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert retried.returncode == 0, retried.stderr
    change.world.start_daemon()
    change.until(
        lambda: all(change.observer.accepted(kind) == 2 * EACH for kind in (PUBLIC, USER)), "the failed ones answered"
    )
    assert change.world.stop_daemon() == 0
    assert not change.observer.answered_twice()
    assert change.count("last_block_polled", "block_number > 0", RUST) == len(OPERATIONS)
