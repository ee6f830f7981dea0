"""What the simulated database keeps, and the one place where a row changes: where the invariants look."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import attrs

from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import OPERATIONS, WITH_RESPONSE
from kmsd.ports import BlockRef, Claimed, ClaimedResponse, Identity, JournalEntry, QuarantinedLog, RejectedResult

Key = tuple[Kind, int]


@attrs.frozen
class Request:
    """A row of a request table; the columns that decide something (sql/migrations)."""

    kind: Kind
    id: int
    event: Any
    content_hash: bytes
    tx_hash: bytes
    block_number: int
    block_hash: bytes
    log_index: int
    otlp_context: bytes
    created_at: float
    reporting_node: str
    due: float
    budget_started_at: float
    status: str = "pending"
    owner: int | None = None
    unconfirmed: bool = False
    attempts: int = 0
    error_counter: int = 0
    already_sent: bool = False
    core_shard: str | None = None
    refusal: str | None = None
    last_error: str | None = None
    note: str | None = None
    stale_owner: int | None = None
    content_epoch: int = 0
    orphaned: bool = False
    updated_at: float = 0.0

    is_response = False

    @property
    def key(self) -> Key:
        """Kind and id."""
        return self.kind, self.id

    def claimed(self, now: float) -> Claimed:
        """As a claim gives it."""
        return Claimed(
            kind=self.kind,
            id=self.id,
            event=self.event,
            tx_hash=self.tx_hash,
            block_number=self.block_number,
            block_hash=self.block_hash,
            log_index=self.log_index,
            already_sent=self.already_sent,
            error_counter=self.error_counter,
            attempts=self.attempts,
            core_shard=self.core_shard,
            refusal=self.refusal,
            budget_age=now - self.budget_started_at,
            created_at=self.created_at,
            otlp_context=self.otlp_context,
            lease=self.owner or 0,
            reporting_node=self.reporting_node,
        )


@attrs.frozen
class Response:
    """A row of a response table."""

    kind: Kind
    id: int
    fields: Mapping[str, Any]
    otlp_context: bytes
    created_at: float
    due: float
    budget_started_at: float
    status: str = "pending"
    owner: int | None = None
    attempts: int = 0
    error_counter: int = 0
    last_error: str | None = None
    tx_hash: bytes | None = None
    updated_at: float = 0.0

    is_response = True

    @property
    def key(self) -> Key:
        """Kind and id."""
        return self.kind, self.id

    def claimed(self, now: float) -> ClaimedResponse:
        """As a claim gives it."""
        return ClaimedResponse(
            self.kind,
            self.id,
            self.fields,
            self.created_at,
            self.otlp_context,
            self.attempts,
            self.error_counter,
            now - self.budget_started_at,
            self.owner or 0,
        )


Row = Request | Response
R = TypeVar("R", Request, Response)
Change = Callable[[str, "int | None", "Row | None", "Row | None"], None]
"""(verb, the owner who does it or None, row before, row after)."""


@attrs.define
class Owner:
    """A row of kmsd_owners."""

    name: str
    heartbeat_at: float


@attrs.define
class Lane:
    """A row of kmsd_lanes with the lane's journal by nonce and attempt."""

    epoch: int = 0
    owner: int = 0
    highest_nonce: int | None = None
    journal: dict[tuple[int, int], JournalEntry] = attrs.field(factory=dict)


@attrs.frozen
class Withdrawn:
    """A row of kmsd_withdrawn."""

    key: Key
    content_hash: bytes
    owner: int | None
    reason: str
    at: float


@attrs.frozen
class Sighting:
    """Which log one node showed of a ceremony."""

    content_hash: bytes
    block_number: int
    block_hash: bytes
    log_index: int


@attrs.define(eq=False)
class Database:
    """Everything durable. `on_change` hears of every row that changes, after the change."""

    clock: Callable[[], float]
    on_change: Change = lambda *_: None
    on_journal: Callable[[str, Lane, JournalEntry | None, JournalEntry], None] = lambda *_: None
    on_cursor: Callable[[str, Stream, BlockRef | None, BlockRef], None] = lambda *_: None
    identity: Identity | None = None
    requests: dict[Key, Request] = attrs.field(factory=dict)
    responses: dict[Key, Response] = attrs.field(factory=dict)
    owners: dict[int, Owner] = attrs.field(factory=dict)
    last_epoch: int = 0
    names: dict[str, Any] = attrs.field(factory=dict)
    cursors: dict[tuple[str, Stream], BlockRef] = attrs.field(factory=dict)
    ends: dict[tuple[str, Stream], dict[int, bytes]] = attrs.field(factory=dict)
    floors: dict[Stream, int] = attrs.field(factory=dict)
    sightings: dict[tuple[Kind, int, str], Sighting] = attrs.field(factory=dict)
    quarantine: dict[tuple[bytes, int, str], tuple[QuarantinedLog | None, Key | None, float]] = attrs.field(
        factory=dict
    )
    withdrawn: list[Withdrawn] = attrs.field(factory=list)
    finished: dict[Key, None] = attrs.field(factory=dict)
    slots: dict[str, tuple[Kind, int, int]] = attrs.field(factory=dict)
    lanes: dict[tuple[int, bytes], Lane] = attrs.field(factory=dict)
    lane_locks: dict[tuple[int, bytes], Any] = attrs.field(factory=dict)
    lane_sessions: list[Any] = attrs.field(factory=list)
    rejected: list[RejectedResult] = attrs.field(factory=list)
    facts: dict[tuple[str, int], tuple[bytes, int]] = attrs.field(factory=dict)
    divergences: dict[Key, tuple[bytes, bytes]] = attrs.field(factory=dict)
    keys: dict[tuple[str, int], str] = attrs.field(factory=dict)

    def table(self, kind: Kind, is_response: bool) -> Iterator[Row]:
        """Rows of one table, oldest insert first."""
        rows: Mapping[Key, Row] = self.responses if is_response else self.requests
        return (row for row in list(rows.values()) if row.kind is kind)

    def tables(self) -> Iterator[tuple[str, Kind, bool]]:
        """Name, kind and whether it holds responses, in the order of `kmsd.store.owners.all_tables`."""
        for kind, operation in OPERATIONS.items():
            yield operation.request_table, kind, False
            if kind in WITH_RESPONSE:
                assert operation.response is not None
                yield operation.response.table, kind, True

    def put(self, verb: str, actor: int | None, row: Row) -> None:
        """Insert or overwrite a row."""
        row = attrs.evolve(row, updated_at=self.clock())
        before: Row | None
        if isinstance(row, Request):
            before, self.requests[row.key] = self.requests.get(row.key), row
        else:
            before, self.responses[row.key] = self.responses.get(row.key), row
        self.on_change(verb, actor, before, row)

    def change(self, verb: str, actor: int | None, row: R, **columns: Any) -> R:
        """Overwrite some columns of a row; the new one."""
        changed = attrs.evolve(row, **columns)
        self.put(verb, actor, changed)
        return changed

    def remove(self, verb: str, row: Row) -> None:
        """Delete a row."""
        if isinstance(row, Request):
            del self.requests[row.key]
        else:
            del self.responses[row.key]
        self.on_change(verb, None, row, None)
