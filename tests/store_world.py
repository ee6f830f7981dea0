"""A migrated database, stores on it, and requests and answers of every kind to put into it."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
import trio_asyncio

from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import DECRYPTIONS, OPERATIONS
from kmsd.ports import Answered, Arrival, BlockRef, Claimed, Lease, Log, RangeOutcome, RangeRecord
from kmsd.sandbox.postgres import Postgres
from kmsd.store.migrations import migrate
from kmsd.store.postgres import PostgresStore, open_store
from kmsd.wire.ids import IdType, make_id
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.structs import KeyDigest, SnsMaterial

ID_TYPES = {
    Kind.PUBLIC_DECRYPTION: IdType.PUBLIC_DECRYPTION,
    Kind.USER_DECRYPTION: IdType.USER_DECRYPTION,
    Kind.PREP_KEYGEN: IdType.PREP_KEYGEN,
    Kind.KEYGEN: IdType.KEY,
    Kind.CRSGEN: IdType.CRS,
    Kind.KEY_RESHARE: IdType.KEY_RESHARE,
}

_numbers = itertools.count(1)


def digest(*words: object) -> bytes:
    """32 bytes that depend on the words."""
    return hashlib.sha256(repr(words).encode()).digest()


def request_id(kind: Kind, counter: int) -> int:
    """The `counter`-th id of a kind."""
    return counter if kind is Kind.PRSS_INIT else make_id(ID_TYPES[kind], counter)


def block(number: int, fork: str = "") -> BlockRef:
    """A block of the chain, or of another history of it."""
    return BlockRef(number, digest("block", number, fork))


def event_of(kind: Kind, counter: int, salt: object = "") -> Any:
    """What the `counter`-th request of a kind asks for; another `salt` asks for something else."""
    key = make_id(IdType.KEY, 1)
    materials = tuple(
        SnsMaterial(digest("handle", counter, n, salt), key, digest("ct", counter, n), (b"\x11" * 20, b"\x22" * 20))
        for n in range(2)
    )
    id_ = request_id(kind, counter)
    bits = 64 + len(str(salt))
    return {
        Kind.PUBLIC_DECRYPTION: lambda: events.PublicDecryptionRequest(id_, materials, b"\x00"),
        Kind.USER_DECRYPTION: lambda: events.UserDecryptionRequest(id_, materials, b"\x33" * 20, b"key" * 100, b""),
        Kind.PREP_KEYGEN: lambda: events.PrepKeygenRequest(id_, len(str(salt)), 1),
        Kind.KEYGEN: lambda: events.KeygenRequest(make_id(IdType.PREP_KEYGEN, counter + len(str(salt))), id_),
        Kind.CRSGEN: lambda: events.CrsgenRequest(id_, bits, 1),
        Kind.PRSS_INIT: lambda: events.PrssInit(),
        Kind.KEY_RESHARE: lambda: events.KeyReshareSameSet(
            make_id(IdType.PREP_KEYGEN, 1), make_id(IdType.KEY, 1 + len(str(salt))), id_, 1
        ),
    }[kind]()


def arrival(kind: Kind, counter: int, at: BlockRef | None = None, *, salt: object = "", log_index: int = 0) -> Arrival:
    """The `counter`-th request of a kind, heard in a block."""
    at = at or block(100 + counter % 1_000_000)
    event = event_of(kind, counter, salt)
    return Arrival(
        kind=kind,
        id=0 if kind is Kind.PRSS_INIT else request_id(kind, counter),
        event=event,
        content_hash=events.content_hash(event),
        tx_hash=digest("tx", kind, counter, salt),
        block_number=at.number,
        block_hash=at.hash,
        log_index=log_index,
        otlp_context=bytes(8),
        created_at=1_700_000_000.0 + counter % 1_000_000,
    )


def fields_of(kind: Kind, counter: int = 1) -> dict[str, Any]:
    """A response's fields."""
    fields: dict[str, Any] = {"signature": digest("signature", counter) * 2 + b"\x1b"}
    if kind in DECRYPTIONS:
        fields["extra_data"] = b""
    if kind is Kind.PUBLIC_DECRYPTION:
        fields["decrypted_result"] = digest("result", counter)
    elif kind is Kind.USER_DECRYPTION:
        fields["user_decrypted_shares"] = digest("shares", counter) * 30
    elif kind is Kind.KEYGEN:
        fields["key_digests"] = (KeyDigest(0, digest("server", counter)), KeyDigest(1, digest("public", counter)))
    elif kind is Kind.CRSGEN:
        fields["crs_digest"] = digest("crs", counter)
    return fields


def answer(lease: Lease, counter: int = 1, **fields: Any) -> Answered:
    """A verified result for a leased request."""
    return Answered(lease, fields_of(lease.kind, counter) | fields, bytes(8), 1_700_000_100.0)


def lease_of(claimed: Claimed, owner: int | None = None) -> Lease:
    """The lease of a claimed row, or the same row in another owner's name."""
    return Lease(claimed.kind, claimed.id, claimed.lease if owner is None else owner)


def log_of(one: Arrival, data: bytes | None = None) -> Log:
    """The log that an arrival was decoded from."""
    topics, payload = events.encode(one.event)
    return Log(
        b"\xd1" * 20,
        topics,
        payload if data is None else data,
        one.block_number,
        one.block_hash,
        one.tx_hash,
        one.log_index,
    )


def first_core(kind: Kind, request_id: int, prep_keygen_id: int | None, stored: str | None) -> str:
    """A route to one Core."""
    return stored or "http://core-0"


async def hear(
    store: PostgresStore, *arrivals: Arrival, node: str = "main", stream: Stream | None = None, **more: Any
) -> RangeOutcome:
    """Record a range that holds these arrivals, from wherever the node's cursor is."""
    if stream is None:
        kind = arrivals[0].kind if arrivals else Kind.PUBLIC_DECRYPTION
        stream = OPERATIONS[kind].stream
    cursor = await store.cursor(node, stream)
    end = block(max([cursor.number + 1 if cursor else 1, *(one.block_number for one in arrivals)]))
    return await store.record_range(RangeRecord(node, stream, cursor, end, arrivals, **more))


def quick_sql(url: str, postgres: Postgres) -> Callable[[str], str]:
    """Runs statements beside the store, as an operator or the Rust connector would."""
    database = url.rsplit("/", 1)[1]
    return lambda sql: postgres.execute(sql, database)


@attrs.define
class Unretrieved:
    """Errors of asyncio that nobody retrieved."""

    contexts: list[dict[str, Any]] = attrs.field(factory=list)


@pytest.fixture
async def asyncio_loop() -> AsyncIterator[Unretrieved]:
    """The trio-asyncio loop that the store needs, as nursery.py opens it."""
    unretrieved = Unretrieved()
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(lambda loop, context: unretrieved.contexts.append(context))
        yield unretrieved


@pytest.fixture(scope="session")
def migrated_template(postgres_server: Postgres) -> str:
    """The name of a migrated database, to be copied."""

    async def prepare(url: str) -> None:
        async with trio_asyncio.open_loop():
            await migrate(url)

    name = "migrated_template"
    trio.run(prepare, postgres_server.create_database(name))
    return name


@pytest.fixture
def database_url(postgres_server: Postgres, migrated_template: str) -> Iterator[str]:
    """The address of a migrated database of the test's own."""
    name = f"store_{next(_numbers)}"
    yield postgres_server.create_database(name, template=migrated_template)
    postgres_server.drop_database(name)


@pytest.fixture
def sql(database_url: str, postgres_server: Postgres) -> Callable[[str], str]:
    """Runs statements in the test's database through psql, and gives their output."""
    return quick_sql(database_url, postgres_server)


Opener = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def stores(asyncio_loop: Unretrieved, database_url: str) -> AsyncIterator[Opener]:
    """Opens stores on the test's database: `store = await stores("name")`, as many as daemons there are."""
    async with AsyncExitStack() as stack:

        async def open_one(name: str = "kmsd", url: str | None = None, **options: Any) -> PostgresStore:
            settings: dict[str, Any] = {"instance_name": name, "pool_size": 4} | options
            return await stack.enter_async_context(open_store(url or database_url, **settings))

        yield open_one


@pytest.fixture
async def store(stores: Opener) -> PostgresStore:
    """One store."""
    return await stores()


@pytest.fixture
async def owner(store: PostgresStore) -> int:
    """The epoch of `store`."""
    return await store.enrol("kmsd", ["worker"])


async def leased(store: PostgresStore, owner: int, *arrivals: Arrival) -> Sequence[Claimed]:
    """Store and claim decryptions of one kind."""
    await hear(store, *arrivals)
    return await store.claim(arrivals[0].kind, owner, len(arrivals))
