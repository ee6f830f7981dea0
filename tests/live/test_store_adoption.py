"""A database of the Rust connector v0.11 is adopted in place, and that connector still runs on it afterwards (PR7)."""

from collections.abc import Callable, Iterator

import pytest
import rust_connector as rust
from store_world import Opener, Unretrieved, quick_sql, request_id

from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import CEREMONIES, DECRYPTIONS, OPERATIONS
from kmsd.ports import BlockRef, Identity, IdentityMismatch, KeyAllowance
from kmsd.sandbox.postgres import Postgres
from kmsd.store.connections import Database
from kmsd.store.migrations import DatabaseRefused, migrate, status
from kmsd.store.postgres import PostgresStore
from kmsd.store.sql import migrations
from kmsd.store.tables import REQUEST_TABLES, RESPONSE_TABLES
from kmsd.wire.ids import IdType, make_id, to_db

Sql = Callable[[str], str]
STATUSES = ("pending", "under_process", "completed", "failed")


def ids(kind: Kind) -> Iterator[tuple[int, str]]:
    """An id for each status of a kind."""
    for number, state in enumerate(STATUSES, 1):
        yield request_id(kind, number), state


def populate(sql: Sql) -> None:
    """Rows of every kind in every status; responses of completed requests in every status too."""
    script = []
    for kind, operation in OPERATIONS.items():
        for number, (one, state) in enumerate(ids(kind)):
            more = {"key_id": rust.literal(to_db(make_id(IdType.KEY, 10 + number)))} if kind is Kind.KEY_RESHARE else {}
            script.append(rust.insert_request(kind, to_db(one), status=f"'{state}'", **more))
        if operation.response is None:
            continue
        for number, state in enumerate(STATUSES, 11):
            key = to_db(request_id(kind, number))
            script += [rust.insert_request(kind, key), rust.insert_response(kind, key, status=f"'{state}'")]
    script += [rust.move_cursor(operation.event_type, 1000 + n) for n, operation in enumerate(OPERATIONS.values())]
    sql(";\n".join(script))


@pytest.fixture
def rust_sql(empty_database_url: str, postgres_server: Postgres) -> Sql:
    """psql on a database as the Rust connector made and used it."""
    sql = quick_sql(empty_database_url, postgres_server)
    sql(rust.SCHEMA.read_text())
    populate(sql)
    return sql


@pytest.fixture
async def adopted(asyncio_loop: Unretrieved, empty_database_url: str, rust_sql: Sql) -> Sql:
    """The same, adopted."""
    await migrate(empty_database_url)
    return rust_sql


@pytest.mark.guarantee("PR7")
async def test_it_is_adopted_in_place_and_once(
    asyncio_loop: Unretrieved, empty_database_url: str, rust_sql: Sql
) -> None:
    sizes = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table.name})" for table in REQUEST_TABLES.values())
    before = rust_sql(sizes)
    sqlx = rust_sql("SELECT version, encode(checksum, 'hex') FROM _sqlx_migrations ORDER BY 1")
    found = await status(empty_database_url)
    assert (found.applied, found.adopted) == ((), True)
    applied = await migrate(empty_database_url)
    assert [one.version for one in applied] == [one.version for one in migrations()]
    assert await migrate(empty_database_url) == ()
    recorded = rust_sql("SELECT version, checksum, adopted FROM kmsd_migrations ORDER BY version").splitlines()
    assert recorded == [f"{one.version}|{one.checksum}|{'t' if one.version == 1 else 'f'}" for one in migrations()]
    assert rust_sql(sizes) == before
    assert rust_sql("SELECT version, encode(checksum, 'hex') FROM _sqlx_migrations ORDER BY 1") == sqlx


@pytest.mark.guarantee("PR7")
async def test_it_ends_with_the_same_schema_as_a_new_database(adopted: Sql, sql: Sql) -> None:
    columns = (
        "SELECT table_name, column_name, data_type, udt_name, is_nullable FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name NOT IN ('_sqlx_migrations', 'kskgen_requests') ORDER BY 1, 2"
    )
    assert adopted(columns) == sql(columns)
    triggers = "SELECT tgrelid::regclass::text, tgtype FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
    assert adopted(triggers) == sql(triggers)
    keys = (
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'p' AND conrelid <> '_sqlx_migrations'::regclass AND conrelid <> 'kskgen_requests'::regclass "
        "ORDER BY 1, 2"
    )
    assert adopted(keys) == sql(
        keys.replace("AND conrelid <> '_sqlx_migrations'::regclass AND conrelid <> 'kskgen_requests'::regclass ", "")
    )


@pytest.mark.guarantee("PR7")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "INSERT INTO _sqlx_migrations VALUES (20260226000000, 'kms context', now(), true, '\\x00', 1)",
            r"newer than v0\.11: migration 20260226000000 \(kms context\)",
        ),
        ("UPDATE _sqlx_migrations SET success = false WHERE version = 20250422000000", "failed half way"),
        ("DROP TABLE crsgen_responses", "older Rust connector's: crsgen_responses missing"),
        ("ALTER TABLE prss_init DROP COLUMN tx_hash", "prss_init lacks tx_hash"),
        (
            "DROP TABLE _sqlx_migrations; ALTER TABLE crsgen_requests ADD COLUMN context_id bytea",
            "crsgen_requests has context_id",
        ),
    ],
    ids=["newer", "half-way", "older", "column missing", "column too many"],
)
async def test_another_schema_is_refused_by_name(
    asyncio_loop: Unretrieved, empty_database_url: str, rust_sql: Sql, damage: str, words: str
) -> None:
    rust_sql(damage)
    with pytest.raises(DatabaseRefused, match=words):
        await migrate(empty_database_url)
    assert rust_sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'kmsd%'") == "0"


@pytest.mark.guarantee("PR7")
async def test_another_networks_database_is_refused(adopted: Sql, stores: Opener, empty_database_url: str) -> None:
    store = await stores(url=empty_database_url)
    await store.adopt(Identity(54321, b"\x01" * 20, b"\x02" * 20))
    await store.adopt(Identity(54321, b"\x01" * 20, b"\x02" * 20))
    for other in (
        Identity(54322, b"\x01" * 20, b"\x02" * 20),
        Identity(54321, b"\x03" * 20, b"\x02" * 20),
        Identity(54321, b"\x01" * 20, b"\x03" * 20),
    ):
        with pytest.raises(IdentityMismatch, match="another network"):
            await store.adopt(other)


@pytest.mark.guarantee("PR7")
async def test_everything_unfinished_is_served_by_kmsd(adopted: Sql, stores: Opener, empty_database_url: str) -> None:
    """Pending and ownerless rows come out of the queue, each once; finished and failed ones stay as they are."""
    store = await stores(url=empty_database_url)
    owner = await store.enrol("kmsd", ["worker", "sender"])
    for kind in DECRYPTIONS:
        claimed = await store.claim(kind, owner, 100)
        assert sorted(one.id for one in claimed) == [request_id(kind, 1), request_id(kind, 2)]
        assert all(one.event.decryption_id == one.id for one in claimed)
        assert await store.claim(kind, owner, 100) == []
    served = {(one.kind, one.id) for one in await claims_of_ceremonies(store, owner)}
    assert served == {(kind, request_id(kind, number)) for kind in CEREMONIES for number in (1, 2)}
    for kind in RESPONSE_TABLES:
        responses = await store.claim_responses(kind, owner, 100)
        assert sorted(one.id for one in responses) == [request_id(kind, 11), request_id(kind, 12)]
        assert await store.claim_responses(kind, owner, 100) == []
    for kind, operation in OPERATIONS.items():
        rows = adopted(f"SELECT status, count(*) FROM {operation.request_table} GROUP BY 1 ORDER BY 1").splitlines()
        finished = "completed|5" if operation.response is not None else "completed|1"
        assert rows == ["under_process|2", finished, "failed|1"], kind
    assert await store.key_allowance(request_id(Kind.KEYGEN, 1)) is KeyAllowance.ALL


async def claims_of_ceremonies(store: PostgresStore, owner: int) -> list[object]:
    """One send at a time for each Core: give every ceremony a Core of its own."""
    claimed: list[object] = []
    while more := await store.claim_ceremonies(owner, lambda kind, id_, prep, stored: f"http://{kind.value}-{id_}", 50):
        claimed += more
    return claimed


@pytest.mark.guarantee("PR7")
async def test_reading_goes_on_where_the_rust_connector_stood(
    adopted: Sql, stores: Opener, empty_database_url: str
) -> None:
    store = await stores(url=empty_database_url)
    assert await store.lowest_cursor(Stream.DECRYPTION) == BlockRef(1000, b"")
    assert await store.lowest_cursor(Stream.KEY_MANAGEMENT) == BlockRef(1002, b"")


@pytest.mark.guarantee("PR7")
async def test_the_rust_connector_still_runs_on_it(adopted: Sql, stores: Opener, empty_database_url: str) -> None:
    """Its statements, on rows that it writes and on rows that kmsd wrote: every one takes effect, channels included."""
    heard: list[str] = []
    database = Database(empty_database_url, pool_size=1, statement_timeout=15.0)
    async with database.dedicated() as listening:
        for operation in OPERATIONS.values():
            await listening.listen(operation.channel, lambda c, pid, channel, payload: heard.append(channel))
            if operation.response is not None:
                await listening.listen(
                    operation.response.channel, lambda c, pid, channel, payload: heard.append(channel)
                )
        for kind, operation in OPERATIONS.items():
            table, column = operation.request_table, operation.id_column
            rust_key = "key_id" if kind is Kind.KEY_RESHARE else column  # it knows a reshare by its key
            key = to_db(request_id(kind, 77))
            adopted(rust.insert_request(kind, key))
            adopted(rust.insert_request(kind, key))
            assert adopted(f"SELECT count(*) FROM {table} WHERE {column} = {rust.literal(key)}") == "1"
            others = f"{column} <> {rust.literal(key)}"
            adopted(f"UPDATE {table} SET status = 'failed' WHERE status = 'pending' AND {others}")
            assert len(adopted(rust.pick(table, rust_key, 50)).splitlines()) == 1
            assert adopted(rust.pick(table, rust_key, 50)) == ""
            more = ", error_counter = 3, already_sent = true" if kind in DECRYPTIONS else ""
            adopted(rust.set_status(table, column, key, "pending", more))
            assert len(adopted(rust.pick(table, rust_key, 50)).splitlines()) == 1
            if operation.response is None:
                adopted(rust.set_status(table, column, key, "completed"))
            else:
                adopted(rust.insert_response(kind, key))
                responses = operation.response.table
                adopted(f"UPDATE {responses} SET status = 'completed' WHERE {others}")
                assert len(adopted(rust.pick(responses, column, 50)).splitlines()) == 1
                adopted(rust.set_status(responses, column, key, "completed"))
                assert adopted(f"SELECT status FROM {responses} WHERE {column} = {rust.literal(key)}") == "completed"
            state = adopted(f"SELECT status, lease_owner FROM {table} WHERE {column} = {rust.literal(key)}")
            assert state == "completed|", kind
            adopted(rust.move_cursor(operation.event_type, 5000))
        await listening.fetch("SELECT 1")
    channels = {operation.channel for operation in OPERATIONS.values()}
    channels |= {operation.response.channel for operation in OPERATIONS.values() if operation.response is not None}
    assert set(heard) == channels
    assert adopted("SELECT DISTINCT block_number FROM last_block_polled") == "5000"
    # And kmsd takes over again: what the Rust connector left under process has no owner.
    key = to_db(request_id(Kind.PUBLIC_DECRYPTION, 78))
    adopted(rust.insert_request(Kind.PUBLIC_DECRYPTION, key, status="'under_process'"))
    store = await stores(url=empty_database_url)
    owner = await store.enrol("kmsd", ["worker"])
    back = await store.reclaim(unowned_after=0.0)
    assert ("public_decryption_requests", 1) in {(one.table, one.rows) for one in back}
    assert [one.id for one in await store.claim(Kind.PUBLIC_DECRYPTION, owner, 9)] == [
        request_id(Kind.PUBLIC_DECRYPTION, 78)
    ]
