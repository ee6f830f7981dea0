"""The outside world as Protocols, and the records that cross them.

Everything that kmsd reaches beyond its own memory is one of these: nodes, store, core, blobs, wallet, time, entropy.
The real ones live in `chain/`, `store/`, `core/`, `blobs/`; the simulated world of `tests/sim` implements the same
Protocols under virtual time. No port hides a decision: retries, choice of a node, meaning of an answer are pure
functions above them.

Conventions: ids are `int` (uint256); handles, hashes and digests are 32 `bytes`, addresses 20 `bytes`, all big-endian
as on chain; amounts are wei; durations are seconds as `float`; instants are Unix seconds as `float`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, Protocol

import attrs

from kmsd.operations.kinds import Kind, Stream

# ---------------------------------------------------------------------------------------------------------------------
# Time and entropy


class Time(Protocol):
    """Wall clock. Waiting is trio's (`trio.sleep`, deadlines), so a mock clock moves both."""

    def now(self) -> float:
        """Unix time in seconds."""


class Entropy(Protocol):
    """The only source of chance in the daemon: jitter, trace ids. Seeded in the simulated world."""

    def random(self) -> float:
        """A float in [0, 1)."""

    def token(self, size: int) -> bytes:
        """`size` random bytes."""


# ---------------------------------------------------------------------------------------------------------------------
# Chain: one JSON-RPC node; typed questions are built over `batch` in `kmsd/chain/`


class DependencyDown(Exception):
    """A dependency could not be asked (no connection, deadline, 5xx, wrong chain). Never blames a request.

    `name` says which one as an operator knows it: "gateway node main", "host chain 11155111", "database", "bucket …",
    "core http://…:50051"; `detail` has no secret in it. `too_slow`: it was asked and gave no answer in time,
    so that asking for less may help.
    """

    def __init__(self, name: str, detail: str, *, too_slow: bool = False) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail
        self.too_slow = too_slow


class BlockRef(NamedTuple):
    """A block by number and hash."""

    number: int
    hash: bytes


class Log(NamedTuple):
    """One log as `eth_getLogs` gives it, in bytes."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    tx_hash: bytes
    log_index: int


class RpcCall(NamedTuple):
    """One JSON-RPC method with its parameters as JSON values."""

    method: str
    params: Sequence[Any]


class RpcError(NamedTuple):
    """A JSON-RPC error object. Classify on `code` and on revert data inside `data`, never on `message`."""

    code: int
    message: str
    data: Any = None


class RpcAnswer(NamedTuple):
    """Result (a JSON value, may be null) or error of one call; `error` is None when it succeeded."""

    result: Any
    error: RpcError | None = None


class Head(NamedTuple):
    """A new head pushed by a node. `logs_bloom` is its 256-byte filter, or None where the node sent none."""

    number: int
    hash: bytes
    parent_hash: bytes
    logs_bloom: bytes | None


class Node(Protocol):
    """One node of one chain as configured by name; its backup URLs count as the same node (decisions.md 12)."""

    @property
    def name(self) -> str: ...

    @property
    def chain_id(self) -> int:
        """The configured chain id; the real node checks its endpoint's own on connecting (EV8)."""

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        """Ask `calls` as one HTTP request of one endpoint, answers in the order of the calls.

        Raises DependencyDown when no endpoint of the node answers within `deadline` seconds.
        """

    def heads(self) -> AbstractAsyncContextManager[AsyncIterator[Head]] | None:
        """A `newHeads` subscription that ends (StopAsyncIteration) when the connection does; None without `ws_url`."""


# ---------------------------------------------------------------------------------------------------------------------
# Core


class StatusCode(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CoreMethod(StrEnum):
    """Methods of the Core that kmsd calls; the value is the name on the wire."""

    PUBLIC_DECRYPT = "PublicDecrypt"
    GET_PUBLIC_DECRYPTION_RESULT = "GetPublicDecryptionResult"
    USER_DECRYPT = "UserDecrypt"
    GET_USER_DECRYPTION_RESULT = "GetUserDecryptionResult"
    KEY_GEN_PREPROC = "KeyGenPreproc"
    GET_KEY_GEN_PREPROC_RESULT = "GetKeyGenPreprocResult"
    KEY_GEN = "KeyGen"
    GET_KEY_GEN_RESULT = "GetKeyGenResult"
    CRS_GEN = "CrsGen"
    GET_CRS_GEN_RESULT = "GetCrsGenResult"
    INIT = "Init"
    INITIATE_RESHARING = "InitiateResharing"
    GET_RESHARING_RESULT = "GetResharingResult"
    GET_KEY_MATERIAL_AVAILABILITY = "GetKeyMaterialAvailability"
    HEALTH = "Check"


@attrs.frozen
class Shard:
    """One Core endpoint as configured, with its stand-by. `endpoint` is the text stored in `core_shard`."""

    index: int
    endpoint: str
    backup: str | None = None


class Slots(Protocol):
    """Room for decryptions in flight at one shard (`kmsd.core.window`)."""

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""

    @property
    def in_flight(self) -> int:
        """Requests in flight."""

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Hold one from before a decryption's send until its result; waits in order of arrival."""


class CoreAnswer(NamedTuple):
    """Status and, if OK, the decoded reply message (a class of `kmsd.core.pb`). `detail` is for humans only.

    `local`: the status was made on our side (no connection, deadline, pause); the Core did not say it.
    """

    status: StatusCode
    message: Any
    detail: str = ""
    local: bool = False


class Core(Protocol):
    """The party's Core shards. Transport faults are answers (UNAVAILABLE, DEADLINE_EXCEEDED), not exceptions."""

    @property
    def shards(self) -> tuple[Shard, ...]: ...

    def window(self, shard: Shard) -> Slots:
        """The shard's adaptive window; the port itself learns from the answers."""

    async def call(self, shard: Shard, method: CoreMethod, request: Any, *, deadline: float) -> CoreAnswer:
        """Make one unary call; `request` is a message or the encoded bytes of one. `deadline` in seconds."""


# ---------------------------------------------------------------------------------------------------------------------
# Blobs


class Blob(NamedTuple):
    """One object of a bucket: its bytes, their keccak-256, and the raw `x-amz-meta-Ct-Format` header if any."""

    body: bytes
    keccak: bytes
    format: str | None


class BlobFault(StrEnum):
    """Why a bucket could not give an object; each means: ask the next bucket."""

    NOT_FOUND = "not found"
    HTTP_STATUS = "unexpected HTTP status"
    CONNECT = "cannot connect"
    STALLED = "no bytes within the read deadline"
    DEADLINE = "not complete within the total deadline"
    TOO_LARGE = "larger than the limit"
    FORBIDDEN_ADDRESS = "private address refused"
    TLS = "TLS failure"
    BROKEN = "connection broken"
    BAD_URL = "unusable URL"
    WRONG_BYTES = "not the bytes that the event names"


class BlobUnavailable(Exception):
    """One bucket's refusal or fault for one object. `announced` is the object's size where TOO_LARGE knows it."""

    def __init__(self, fault: BlobFault, detail: str = "", announced: int | None = None) -> None:
        super().__init__(f"{fault.value}{': ' + detail if detail else ''}")
        self.fault = fault
        self.detail = detail
        self.announced = announced


class Blobs(Protocol):
    """Bounded download of one object from one URL."""

    async def get(self, url: str, *, max_bytes: int, patience: float) -> Blob:
        """GET `url` (http, https or s3), which may take `patience` seconds once it begins.

        Raises BlobUnavailable; never returns more than `max_bytes` bytes.
        """


# ---------------------------------------------------------------------------------------------------------------------
# Wallet


class WalletUnavailable(DependencyDown):
    """The signer could not sign now (remote signer down or throttling)."""


class Wallet(Protocol):
    """Signs digests with the party's transaction key."""

    @property
    def address(self) -> bytes:
        """The 20-byte address; raises WalletUnavailable while a remote signer has not told it yet."""

    async def learn_address(self) -> bytes:
        """The 20-byte address, asking a remote signer the first time. Raises WalletUnavailable."""

    @property
    def is_remote(self) -> bool:
        """True where signing costs a network round trip (AWS KMS)."""

    async def sign(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """65-byte r‖s‖v (v 27 or 28, low s) of the 32-byte digests, same order.

        A remote signer that fails midway gives those of the first ones (at least one); raises WalletUnavailable when
        it could sign none.
        """


# ---------------------------------------------------------------------------------------------------------------------
# Store: records


@attrs.frozen
class Identity:
    """What network a database belongs to (decisions.md 10)."""

    gateway_chain_id: int
    decryption_contract: bytes
    kms_generation_contract: bytes


@attrs.frozen
class Arrival:
    """One decoded request log on its way into its table.

    `id` is the request's id (`decision` 11: for PRSSInit 0; the store numbers them by transaction hash). `event` is the
    decoded record of `kmsd.wire.v0_11.events`. `content_hash` is 32 bytes over the event's content.
    """

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


@attrs.frozen
class QuarantinedLog:
    """A log of ours that could not be decoded, or that conflicts with a row already sent (EV6, decisions.md 9)."""

    node: str
    log: Log
    reason: str


@attrs.frozen
class ChainFact:
    """A consensus or activation event seen on chain (decisions.md 33, 34): name, id, and its decoded record."""

    name: str
    id: int
    event: Any
    block_number: int
    block_hash: bytes
    log_index: int


@attrs.frozen
class RangeRecord:
    """One scanned and proven block range of one node and stream, to be committed with its cursor (EV1).

    `expected` is the cursor that the range was planned from (None: there was none); the commit happens only if it is
    still that. `needs_confirmation`: ceremonies wait until another node reports the same log (decisions.md 12).
    `hand_over` says how many fresh rows of each kind may be leased at once to `owner` (decisions.md 4).
    """

    node: str
    stream: Stream
    expected: BlockRef | None
    end: BlockRef
    arrivals: Sequence[Arrival] = ()
    quarantined: Sequence[QuarantinedLog] = ()
    facts: Sequence[ChainFact] = ()
    needs_confirmation: bool = False
    owner: int | None = None
    hand_over: Mapping[Kind, int] = attrs.field(factory=dict)


@attrs.frozen
class Claimed:
    """A request row leased to this daemon: everything that serving it needs.

    `attempts` counts tries so far, `error_counter` only answers about this very request (QU5). `budget_age` is how many
    seconds of the time budget are spent, by the database's clock. `refusal` is the status name of an earlier refused
    send (decisions.md 13) or None. `lease` is the owner's epoch.
    """

    kind: Kind
    id: int
    event: Any
    tx_hash: bytes | None
    block_number: int | None
    block_hash: bytes | None
    log_index: int | None
    already_sent: bool
    error_counter: int
    attempts: int
    core_shard: str | None
    refusal: str | None
    budget_age: float
    created_at: float
    otlp_context: bytes
    lease: int
    reporting_node: str | None = None


@attrs.frozen
class RangeOutcome:
    """What a committed range did. `committed` is False when the cursor had moved: nothing was written.

    `fresh` are the arrivals that became rows, where the store tells (traces begin with them).
    """

    committed: bool
    stored: Mapping[Kind, int] = attrs.field(factory=dict)
    duplicates: int = 0
    replaced: int = 0
    conflicts: int = 0
    leased: Sequence[Claimed] = ()
    fresh: Sequence[Arrival] = ()


@attrs.frozen
class StoredRef:
    """Where a stored request came from: what a reorganisation needs to know about it."""

    kind: Kind
    id: int
    block_number: int
    block_hash: bytes
    already_sent: bool


@attrs.frozen
class Rewind:
    """Move a cursor back to `to` and withdraw rows of orphaned blocks, in one transaction (EV5).

    Rows of `orphaned` that were sent are marked and reported instead of withdrawn; the store decides by the row.
    """

    node: str
    stream: Stream
    expected: BlockRef
    to: BlockRef
    orphaned: Sequence[StoredRef]
    reason: str


class Lease(NamedTuple):
    """Names a row and the lease that the caller holds on it; every transition carries one (QU2)."""

    kind: Kind
    id: int
    owner: int


@attrs.frozen
class Sent:
    """The Core took the request: store `already_sent` and the shard; a ceremony's slot is freed.

    `fresh`: it answered OK, so an earlier refusal burnt nothing and is forgotten; False for ALREADY_EXISTS.
    """

    lease: Lease
    core_shard: str
    fresh: bool = True


@attrs.frozen
class Answered:
    """A verified result: insert the response and complete the request together (QU6).

    `fields` are the response table's own columns by name (bytes, or a tuple of KeyDigest for `key_digests`).
    """

    lease: Lease
    fields: Mapping[str, Any]
    otlp_context: bytes
    created_at: float
    note: str | None = None


@attrs.frozen
class Finished:
    """The request is done without a response of ours (PRSS, reshare, already finished): complete it with a note."""

    lease: Lease
    note: str | None = None


@attrs.frozen
class TryAgain:
    """Back to pending after `delay` seconds, with words.

    `counted`: an answer about this very request (adds to `error_counter`). `clear_sent`: the Core forgot it.
    `refusal`: status name of a refused send to remember. `core_shard` None keeps what is stored.
    """

    lease: Lease
    delay: float
    last_error: str
    counted: bool = False
    clear_sent: bool = False
    mark_sent: bool = False
    refusal: str | None = None
    core_shard: str | None = None


@attrs.frozen
class Failed:
    """Refused for good, or budget spent; `last_error` says why in words (QU8)."""

    lease: Lease
    last_error: str
    counted: bool = False


@attrs.frozen
class RejectedResult:
    """A Core answer that failed its checks, kept for forensics (decisions.md 19)."""

    kind: Kind
    id: int
    core_shard: str
    reason: str
    raw: bytes


@attrs.frozen
class ClaimedResponse:
    """A response row leased to this daemon's sender. `fields` as in Answered."""

    kind: Kind
    id: int
    fields: Mapping[str, Any]
    created_at: float
    otlp_context: bytes
    attempts: int
    error_counter: int
    budget_age: float
    lease: int


class TxState(StrEnum):
    """State of a journal entry (one per attempt, i.e. per signed transaction)."""

    SIGNED = "signed"  # committed, may have been broadcast
    MINED = "mined"  # receipt seen, still watched for reorganisations
    FINAL = "final"  # deep enough, or superseded by another mined attempt of the same nonce
    DROPPED = "dropped"  # never can be mined: its nonce was used by another transaction


@attrs.frozen
class JournalEntry:
    """One signed transaction of a lane (table `kmsd_transactions`).

    `kind`/`id` name the response it carries; both None for an empty self-transfer that fills a nonce.
    """

    nonce: int
    attempt: int
    kind: Kind | None
    id: int | None
    calldata_hash: bytes
    raw: bytes
    tx_hash: bytes
    gas_limit: int
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    state: TxState = TxState.SIGNED
    signed_at: float = 0.0
    block_number: int | None = None
    block_hash: bytes | None = None
    receipt_status: int | None = None
    error: str | None = None


class ResponseFate(StrEnum):
    """What becomes of a response row."""

    COMPLETED = "completed"
    PENDING = "pending"
    FAILED = "failed"


@attrs.frozen
class ResponseOutcome:
    """End of one try at sending a response. `delay` seconds for PENDING; `counted` as in TryAgain."""

    lease: Lease
    fate: ResponseFate
    last_error: str | None = None
    delay: float = 0.0
    counted: bool = False
    tx_hash: bytes | None = None


class LaneLost(Exception):
    """The connection that held the wallet's lock is gone, or a newer epoch has the lane."""


class Lane(Protocol):
    """The journal of one wallet on one chain, open for the one writer that holds its lock (TX1, TX4).

    Every method raises LaneLost when the lock may be gone; nothing was written then.
    """

    async def entries(self) -> Sequence[JournalEntry]:
        """All entries not FINAL or DROPPED, by nonce and attempt."""

    async def highest_nonce(self) -> int | None:
        """The highest nonce ever journaled, whatever its state."""

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        """Commit signed transactions; must return before any of them is broadcast."""

    async def settle(self, entries: Sequence[JournalEntry], outcomes: Sequence[ResponseOutcome] = ()) -> Sequence[bool]:
        """Write the new states of `entries` and of their responses in one transaction; True per applied outcome."""


class OwnerCount(NamedTuple):
    """How many rows of which table went back to the queue from which dead owner."""

    owner: int | None
    table: str
    rows: int


class Wake(NamedTuple):
    """A notification: rows of this kind may be there, in the request (or response) table."""

    kind: Kind
    is_response: bool


class Listed(NamedTuple):
    """A row as a summary names it; `status` is its `operation_status`."""

    kind: Kind
    id: int
    is_response: bool
    status: str
    last_error: str | None


class QueueCount(NamedTuple):
    """How many rows of a table are in a state (pending, under_process, failed), and how many seconds old the oldest is.

    The age is counted from `created_at`; 0 when there is no row.
    """

    kind: Kind
    is_response: bool
    status: str
    rows: int
    oldest_age: float


class Backlog(NamedTuple):
    """What is not finished, for gauges. `unconfirmed` are ceremonies that wait for a second node's word."""

    counts: Sequence[QueueCount]
    quarantined: int
    unconfirmed: int


class KeyAllowance(StrEnum):
    """What the registry of keys allows under a key (decisions.md 33)."""

    ALL = "all"
    DECRYPTION_ONLY = "decryption only"
    NOTHING = "nothing"


class Store(Protocol):
    """Durable state. One verb per transition, each over a batch; no verb does half. Raises DependencyDown ("database").

    A DependencyDown from a writing verb leaves it open whether the write happened: every verb may be repeated.
    """

    # life of the daemon on the database
    async def adopt(self, identity: Identity) -> None:
        """Record or compare `kmsd_meta`; raises IdentityMismatch for another network's database."""

    async def enrol(self, instance_name: str, roles: Sequence[str]) -> int:
        """Insert the owner row, take the name's lock, reclaim what earlier epochs of the name held; the epoch."""

    async def beat(self, owner: int) -> bool:
        """Heartbeat; False when the owner row is gone (declared dead): enrol again."""

    async def leave(self, owner: int) -> int:
        """Give back every lease of `owner` and remove it; number of rows given back."""

    async def reclaim(self, *, unowned_after: float) -> Sequence[OwnerCount]:
        """Rows of dead owners (beat 12 s old) and unowned rows under process for `unowned_after` s back to pending.

        With an infinite `unowned_after` only dead owners are looked for: one small statement.
        """

    async def expire(self, *, finished_after: float, failed_after: float, limit: int) -> int:
        """Delete up to `limit` finished decryptions past their retention, remembering ids (QU9); how many went."""

    def wakes(self) -> AbstractAsyncContextManager[AsyncIterator[Wake]]:
        """Notifications of other processes; ends when the connection does."""

    # listener
    async def cursor(self, node: str, stream: Stream) -> BlockRef | None: ...

    async def lowest_cursor(self, stream: Stream) -> BlockRef | None:
        """The lowest cursor of the stream over all nodes ever stored, or Rust's `last_block_polled` (hash empty)."""

    async def range_ends(self, node: str, stream: Stream) -> Sequence[BlockRef]:
        """The last ends of scanned ranges, newest first, at most 256."""

    async def record_range(self, record: RangeRecord) -> RangeOutcome: ...

    async def stored_after(self, stream: Stream, block_number: int) -> Sequence[StoredRef]: ...

    async def rewind(self, rewind: Rewind) -> bool:
        """False when the cursor had moved: nothing was written."""

    async def publish_floor(self, stream: Stream, nodes: Sequence[str]) -> None:
        """Write `last_block_polled` of the stream's kinds as the minimum cursor of `nodes` (decisions.md 7)."""

    # worker
    async def claim(self, kind: Kind, owner: int, limit: int) -> Sequence[Claimed]:
        """Lease up to `limit` due pending decryptions of `kind`, longest due first; bad rows go to quarantine (QU7)."""

    async def claim_ceremonies(self, owner: int, route: "CeremonyRoute", limit: int) -> Sequence[Claimed]:
        """Lease due ceremonies: sent ones to poll, and per Core the first unsent one in chain order with its slot."""

    async def leased(self, kind: Kind, owner: int) -> Sequence[int]:
        """Ids of the requests of `kind` that wait for a task of `owner` to end: finds claims whose reply was lost.

        Under process in its name, or so before a reorganisation replaced or withdrew them.
        """

    async def sent(self, items: Sequence[Sent]) -> Sequence[bool]: ...

    async def answered(self, items: Sequence[Answered]) -> Sequence[bool]: ...

    async def finished(self, items: Sequence[Finished]) -> Sequence[bool]: ...

    async def try_again(self, items: Sequence[TryAgain]) -> Sequence[bool]: ...

    async def failed(self, items: Sequence[Failed]) -> Sequence[bool]: ...

    async def reject(self, items: Sequence[RejectedResult]) -> None: ...

    async def key_digests(self, key_id: int) -> Sequence[Any]:
        """`KeyDigest`s of a key from our own keygen responses, in signed order; empty if unknown."""

    async def keygen_was_sent(self, prep_keygen_id: int) -> bool: ...

    async def prep_keygen_known(self, prep_keygen_id: int) -> bool:
        """True when there is a prep keygen row of that id."""

    async def key_allowance(self, key_id: int) -> KeyAllowance: ...

    async def key_activated(self, key_id: int, reason: str) -> None:
        """The contract gives this key's materials: it is active, unless an operator set another state."""

    async def open_requests(self) -> Mapping[tuple[Kind, bool], int]:
        """Rows neither completed nor failed, by (kind, is_response): what `--once` waits for."""

    async def listed(self, statuses: Sequence[str], *, changed_after: float, limit: int) -> Sequence[Listed]:
        """Rows in one of `statuses` that changed at or after the instant, oldest first, at most `limit`."""

    async def backlog(self) -> Backlog:
        """Counts and ages of all unfinished rows, for gauges; cheap on large tables."""

    async def key_registry(self) -> Sequence[Mapping[str, Any]]:
        """Every key and CRS that is known, as the operator sees it: state, reason, instants, digests, storage."""

    # sender
    async def claim_responses(self, kind: Kind, owner: int, limit: int) -> Sequence[ClaimedResponse]: ...

    async def leased_responses(self, kind: Kind, owner: int) -> Sequence[int]:
        """As `leased` for responses: ids under process that `owner` holds."""

    async def load_responses(self, keys: Sequence[tuple[Kind, int]]) -> Sequence[ClaimedResponse]:
        """Response rows by key whatever their state, for journal entries found at start; missing ones are left out."""

    async def load_requests(self, keys: Sequence[tuple[Kind, int]]) -> Sequence[Any]:
        """What each response answers, as the event's record; None for a request that is gone or cannot be decoded."""

    async def lease_responses(self, keys: Sequence[tuple[Kind, int]], owner: int) -> Sequence[bool]:
        """Take over the leases of responses that the journal shows in flight (their earlier owner is gone)."""

    async def reopen_responses(self, keys: Sequence[tuple[Kind, int]], owner: int) -> Sequence[bool]:
        """Lease completed responses to `owner` again: a reorganisation undid what had completed them."""

    async def settle_responses(self, outcomes: Sequence[ResponseOutcome]) -> Sequence[bool]:
        """As `Lane.settle` for responses that have no journal entry."""

    def open_lane(self, chain_id: int, wallet: bytes, owner: int) -> AbstractAsyncContextManager[Lane]:
        """Wait for the wallet's lock (checked every second), then the lane; released with its connection (TX4)."""


class CeremonyRoute(Protocol):
    """Chooses the Core of a ceremony: the stored shard while configured, else id mod n; keygen follows its prep."""

    def __call__(self, kind: Kind, request_id: int, prep_keygen_id: int | None, stored: str | None) -> str: ...


class IdentityMismatch(Exception):
    """The database belongs to another network; the daemon refuses to start (exit 78)."""
