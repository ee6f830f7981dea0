"""What commands need of the database: to see everything, and to change it with guards and a record of who did it.

Values come as JSON-able Python: bytes as `0x…`, uint256 columns as 64 hex digits (big-endian, as the Core and the chain
write them), instants as Unix seconds.
"""

import datetime
import decimal
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kmsd.operations.key_states import KeyState, objection
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, CEREMONIES, OPERATIONS
from kmsd.ports import Arrival, BlockRef, ChainFact, RangeRecord
from kmsd.store.connections import Session
from kmsd.store.facts import record_facts
from kmsd.store.owners import all_tables
from kmsd.store.part import Part
from kmsd.store.recording import Tally, record_arrivals
from kmsd.store.sql import query
from kmsd.store.tables import request_query, response_query, table_query
from kmsd.wire.ids import from_db, to_core, to_db

ID_COLUMNS = frozenset(
    {"id", "decryption_id", "prep_keygen_id", "key_id", "crs_id", "key_reshare_id", "epoch_id", "max_bit_length"}
)
"""Columns that hold a uint256, little-endian."""

View = Mapping[str, Any]
"""A row for people and scripts."""


@attrs.frozen
class Story:
    """Everything that is known of one request. `finished_long_ago`: only its id is left."""

    kind: Kind
    id: int
    request: View | None
    response: View | None
    transactions: Sequence[View]
    rejected: Sequence[View]
    sightings: Sequence[View]
    withdrawn: Sequence[View]
    quarantined: Sequence[View]
    divergence: View | None
    key_changes: Sequence[View]
    actions: Sequence[View]
    finished_long_ago: bool


@attrs.frozen
class Changed:
    """What a command did. `done` is False when the row was in no state for it; `words` say what is or why not."""

    done: bool
    words: str


class Operator(Part):
    """The operator's verbs."""

    async def rows(
        self, statuses: Sequence[str], *, kind: Kind | None = None, is_response: bool | None = None, limit: int = 100
    ) -> Sequence[View]:
        """Requests and responses in one of `statuses`, newest first: kind, is_response, id, status, tries, error."""

        async def work(session: Session) -> list[View]:
            found: list[View] = []
            for _, one, response in all_tables():
                if kind in (None, one) and is_response in (None, response):
                    sql = table_query("newest_rows", one, is_response=response)
                    for row in await session.fetch(sql, list(statuses), limit):
                        found.append({"kind": one.value, "is_response": response, **view(row)})
            return sorted(found, key=lambda row: float(row["created_at"]), reverse=True)[:limit]

        return await self._database.run("rows", work)

    async def cursors(self) -> Sequence[View]:
        """How far each node was read: node, stream, block_number, block_hash, updated_at."""
        return await self._views("cursors")

    async def owners(self) -> Sequence[View]:
        """Running daemons: epoch, instance_name, roles, started_at, heartbeat_at, silent_for (seconds)."""
        return await self._views("owners")

    async def lanes(self) -> Sequence[View]:
        """Wallets: who has the lane, the highest nonce, transactions in flight and watched."""
        return await self._views("lanes")

    async def withdrawn(self, *, after: int = 0, limit: int = 100) -> Sequence[View]:
        """Requests that a reorganisation took back, by number."""
        return await self._views("withdrawn", after, limit)

    async def divergences(self, *, limit: int = 100) -> Sequence[View]:
        """Our answers that differ from the committee's, newest first."""
        return await self._views("divergences", limit)

    async def story(self, request_id: int, kind: Kind | None = None) -> Sequence[Story]:
        """All that is known under this id, one story for each kind that knows it (nearly always one)."""

        async def work(session: Session) -> list[Story]:
            stories = [await _story(session, one, request_id) for one in ([kind] if kind else OPERATIONS)]
            return [story for story in stories if _is_known(story)]

        return await self._database.run("story", work)

    async def retry(self, kind: Kind, request_id: int, *, by: str) -> Changed:
        """A failed request or response starts afresh, one in back-off is due at once."""

        async def work(session: Session) -> Changed:
            key = to_db(request_id)
            again = []
            if await session.value(request_query("retry", kind), key) is not None:
                again.append("request")
            has_response = OPERATIONS[kind].response is not None
            if has_response and await session.value(response_query("retry", kind), key) is not None:
                again.append("response")
            if not again:
                return Changed(False, f"nothing to retry: {await _state_of(session, kind, key)}")
            words = f"{' and '.join(again)} back in the queue"
            await session.fetch(query("note_action"), "retry", kind.value, key, words, by)
            return Changed(True, words)

        return await self._database.run("retry", work)

    async def retry_failed(self, kind: Kind | None, *, by: str) -> int:
        """Every failed request and response (of `kind`) starts afresh; how many."""

        async def work(session: Session) -> int:
            total = 0
            for _, one, is_response in all_tables():
                if kind in (None, one):
                    total += await session.value(table_query("retry_all_failed", one, is_response=is_response))
            words = f"{total} rows back in the queue"
            await session.fetch(query("note_action"), "retry failed", kind and kind.value, None, words, by)
            return total

        return await self._database.run("retry_failed", work)

    async def retry_unconfirmed(self, kind: Kind, request_id: int, *, by: str) -> Changed:
        """Let a ceremony go that only one node reported (decisions.md 12)."""

        async def work(session: Session) -> Changed:
            key = to_db(request_id)
            if kind not in CEREMONIES or await session.value(request_query("retry_unconfirmed", kind), key) is None:
                return Changed(False, f"it waits for no confirmation: {await _state_of(session, kind, key)}")
            words = "it goes on the word of one node"
            await session.fetch(query("note_action"), "retry --unconfirmed", kind.value, key, words, by)
            return Changed(True, words)

        return await self._database.run("retry_unconfirmed", work)

    async def fail(self, kind: Kind, request_id: int, reason: str, *, by: str, is_response: bool = False) -> Changed:
        """Give a request (or its response) up. A success that is on its way may still complete it."""

        async def work(session: Session) -> Changed:
            key = to_db(request_id)
            words = f"failed by {by}: {reason}"
            sql = table_query("fail", kind, is_response=is_response)
            if await session.value(sql, key, words) is None:
                return Changed(False, f"not failed: {await _state_of(session, kind, key)}")
            await session.fetch(query("free_slot_of"), kind.value, key)
            await session.fetch(query("note_action"), "fail", kind.value, key, reason, by)
            return Changed(True, words)

        return await self._database.run("fail", work)

    async def rewind_cursors(self, stream: Stream, to: Mapping[str, BlockRef], *, by: str) -> Sequence[str]:
        """Read again: move each named node's cursor back to a block that the node has; the nodes that moved.

        Nothing is withdrawn: what is stored or was finished is recognised and not repeated (EV7).
        """

        async def work(session: Session) -> list[str]:
            moved = []
            for node, block in to.items():
                where = (node, stream.value, block.number)
                if await session.value(query("rewind_cursor"), *where, block.hash) is not None:
                    await session.fetch(query("drop_range_ends"), *where)
                    moved.append(node)
            if moved:
                words = f"{stream.value} of {', '.join(moved)} back to block {min(to[n].number for n in moved)}"
                await session.fetch(query("note_action"), "rewind", None, None, words, by)
            return moved

        return await self._database.run("rewind_cursors", work)

    async def quarantined(self, *, resolved: bool = False, after: int = 0, limit: int = 100) -> Sequence[View]:
        """Logs and rows in quarantine, by number; with `resolved` also those that were dealt with."""
        return await self._views("quarantine", resolved, after, limit)

    async def replay_quarantined(self, number: int, found: Arrival | ChainFact | None, *, by: str) -> Changed:
        """Store what a log in quarantine says, now that it can be decoded, or put a row back into the queue (None)."""

        async def work(session: Session) -> Changed:
            row = await session.row(query("lock_quarantined"), number)
            if row is None:
                return Changed(False, f"number {number} is not in quarantine")
            await session.fetch(query("ingest_lock"))
            done = await _replay(session, row, found)
            if done.done:
                await session.fetch(query("resolve_quarantined"), number, f"replayed by {by}: {done.words}")
                await session.fetch(query("note_action"), "replay", row["kind"], row["id"], done.words, by)
            return done

        return await self._database.run("replay_quarantined", work)

    async def discard_quarantined(self, number: int, reason: str, *, by: str) -> Changed:
        """Close an entry of the quarantine without storing anything; it stays readable until its retention ends."""

        async def work(session: Session) -> Changed:
            row = await session.row(query("lock_quarantined"), number)
            if row is None:
                return Changed(False, f"number {number} is not in quarantine")
            await session.fetch(query("resolve_quarantined"), number, f"discarded by {by}: {reason}")
            await session.fetch(query("note_action"), "discard", row["kind"], row["id"], reason, by)
            return Changed(True, "discarded")

        return await self._database.run("discard_quarantined", work)

    async def key_registry(self) -> Sequence[View]:
        """Every key and CRS with its state, its story in instants, digests and storage; keys first."""
        return await self._views("key_registry")

    async def key_changes(self, kind: str, object_id: int) -> Sequence[View]:
        """Changes of state of a "key" or "crs", oldest first: before, after, reason, changed_by, changed_at."""
        return await self._views("story_key_changes", kind, to_db(object_id))

    async def set_key_state(self, kind: str, object_id: int, state: str, reason: str, *, by: str) -> Changed:
        """An operator's decision on a "key" or "crs", which the chain does not change.

        Refused with words where the table of states has no such step. Raises ValueError for an unknown state.
        """
        after = KeyState(state)
        if not reason.strip():
            raise ValueError("a change of state needs a reason")

        async def work(session: Session) -> Changed:
            key = to_db(object_id)
            before = await _key_state(session, kind, key)
            if (words := objection(before, after)) is not None:
                return Changed(False, words)
            await session.fetch(query("set_key_state"), kind, key, after.value, reason, by)
            await session.fetch(query("note_key_change"), kind, key, before.value, after.value, reason, by)
            return Changed(True, f"{before} → {after}")

        return await self._database.run("set_key_state", work)

    async def _views(self, name: str, *arguments: Any) -> list[View]:
        return [view(row) for row in await self._database.single(name, query(name), *arguments)]


async def _key_state(session: Session, kind: str, key: bytes) -> KeyState:
    """The state of a key or CRS, its row locked: what no row says of an object is told by who generated it."""
    row = await session.row(query("lock_key"), kind, key)
    if row is not None:
        return KeyState(row["state"])
    known = await session.row(query("key_state"), kind, key)
    return KeyState.PRE_ACTIVATION if known is not None and known["generated_here"] else KeyState.ACTIVE


async def _replay(session: Session, row: Any, found: Arrival | ChainFact | None) -> Changed:
    if row["source"] == "row":
        kind = Kind(row["kind"])
        again = [await session.value(request_query("retry", kind), row["id"])]
        if OPERATIONS[kind].response is not None:
            again.append(await session.value(response_query("retry", kind), row["id"]))
        return Changed(True, "row back in the queue") if any(again) else Changed(False, "the row is gone or not failed")
    if found is None:
        return Changed(False, "a log needs what it was decoded to")
    node, tally = row["node"] or "", Tally()
    if isinstance(found, ChainFact):
        await record_facts(session, [found], tally)
        return Changed(True, f"{found.name} recorded")
    nothing = BlockRef(found.block_number, found.block_hash)
    record = RangeRecord(node, _stream_of(found.kind), nothing, nothing)
    await record_arrivals(session, record, found.kind, [found], tally)
    if tally.conflicts:
        return Changed(False, "it still contradicts a request that was sent")
    return Changed(True, "stored" if sum(tally.stored.values()) or tally.replaced else "known already")


def _stream_of(kind: Kind) -> Stream:
    return next(stream for stream, kinds in BY_STREAM.items() if kind in kinds)


async def _story(session: Session, kind: Kind, request_id: int) -> Story:
    key, name = to_db(request_id), kind.value

    async def views(query_name: str, *arguments: Any) -> list[View]:
        return [view(row) for row in await session.fetch(query(query_name), *arguments)]

    request = await session.row(request_query("story_row", kind), key)
    response = None
    if OPERATIONS[kind].response is not None:
        response = await session.row(response_query("story_row", kind), key)
    divergence = await views("story_divergence", name, key)
    registry = {Kind.KEYGEN: "key", Kind.CRSGEN: "crs"}.get(kind)
    return Story(
        kind=kind,
        id=request_id,
        request=view(request) if request is not None else None,
        response=view(response) if response is not None else None,
        transactions=await views("story_transactions", key, name),
        rejected=await views("story_rejected", name, key),
        sightings=await views("story_sightings", name, key),
        withdrawn=await views("story_withdrawn", name, key),
        quarantined=await views("story_quarantine", name, key),
        divergence=divergence[0] if divergence else None,
        key_changes=await views("story_key_changes", registry, key) if registry else [],
        actions=await views("story_actions", name, key),
        finished_long_ago=bool(await session.value(query("was_finished"), name, key)),
    )


def _is_known(story: Story) -> bool:
    return bool(story.request or story.response or story.withdrawn or story.quarantined or story.finished_long_ago)


async def _state_of(session: Session, kind: Kind, key: bytes) -> str:
    row = await session.row(request_query("story_row", kind), key)
    words = f"the request is {row['status']}" if row is not None else "there is no such request"
    if OPERATIONS[kind].response is not None:
        answer = await session.row(response_query("story_row", kind), key)
        words += f", its response {answer['status']}" if answer is not None else ", without a response"
    return words


def view(row: Any) -> View:
    """A row for people and scripts."""
    return {name: _shown(name, value) for name, value in row.items()}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        if name in ID_COLUMNS and len(value) == 32:
            return to_core(from_db(value))
        return "0x" + value.hex()
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return aware.timestamp()
    if isinstance(value, decimal.Decimal):
        return int(value)
    if isinstance(value, list):
        return [_shown(name, item) for item in value]
    if isinstance(value, tuple) or hasattr(value, "items"):
        return {key: _shown(key, item) for key, item in value.items()}
    return value
