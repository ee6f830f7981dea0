"""What must always hold in a world, and what must hold when it is quiet.

The audit sees every change of a row, every entry of the journal, every raw transaction on its way, every send to a Core
at the instant when it happens. It knows the truth of the world, and nothing of how kmsd works.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from kmsd.chain.nonces import REORG_DEPTH
from kmsd.chain.transactions import decode
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import BY_STREAM, CEREMONIES, DECRYPTIONS, OPERATIONS
from kmsd.ports import BlockRef, JournalEntry, TxState
from kmsd.store.owners import DEAD_AFTER
from kmsd.store.queue import EARLIER_MEANING
from kmsd.wire import ids
from kmsd.wire.v0_11 import events

from .world import parties as p
from .world.chain import Block
from .world.contracts import Included, right_answer
from .world.core import Core
from .world.lives import Life
from .world.rows import Key, Lane, Request, Response, Row
from .world.store_listener import quarantined_logs

if TYPE_CHECKING:
    from .simulation import World

LATE_COMPLETIONS = frozenset({"answered", "finished", "settle.completed"})
"""Changes that need no lease: a verified success completes its row whoever has it."""
GIVEN = frozenset({"reclaim", "release", "release_stale", "explain", "confirm", "relocate", "orphan", "replace"})
"""Changes that are nobody's try at the row."""
FOUND_AFTER = 30.0
"""Seconds after which a dead owner must have been found: 12 of silence, and what it takes to be sure."""
OVERLAP = 2
"""Blocks before the cursor that are read again (`rescan_overlap`)."""
REPEATED_AFTER = 20.0
"""Seconds after a row's completion after which nobody may send it to a Core any more."""


class Violation(Exception):
    """Stops what was going on when the audit saw something wrong."""


class Audit:
    """Watches one world. `violations` in the order in which they were seen; the first one counts."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.violations: list[str] = []
        self.failed = trio.Event()
        self._meanings: dict[Key, dict[p.Content, None]] = {}
        self._calldata: dict[int, bytes] = {}
        self._completed_at: dict[Key, float] = {}
        self._told: dict[Key, dict[p.Content, None]] = {}
        self._orphans: dict[bytes, None] = {}
        self._seen_blocks: dict[bytes, None] = {}
        self._keygens_sent: dict[int, None] = {}
        self._trouble_at = 0.0
        self._scanned_by: dict[bytes, dict[str, None]] = {}
        database = world.database
        database.on_change = self.changed
        database.on_journal = self.journaled
        database.on_cursor = self.read
        for node in world.nodes:
            node.on_raw = self.leaving
        for core in world.cores:
            core.on_send = self.sent
            core.on_sending = self.sending

    def wrong(self, words: str) -> None:
        """Something that must not be."""
        self.violations.append(f"{words} (at {trio.current_time():.2f} s)")
        self._world.trace.add("WRONG", words)
        self.failed.set()

    # -- the chain

    def mined(self) -> None:
        """New blocks: what ids mean in them."""
        for block in reversed(self._world.chain.blocks):
            if block.hash in self._seen_blocks:
                break
            self._seen_blocks[block.hash] = None
            for one in block.requests:
                self._meanings.setdefault((one.content.kind, one.id), {})[one.content] = None

    def orphaned(self, blocks: Sequence[Block]) -> None:
        """Blocks that fell out of the chain."""
        self._orphans |= {block.hash: None for block in blocks}
        self.mined()

    # -- EV1: the cursor never passes an event that is not stored

    def read(self, node_name: str, stream: Stream, expected: BlockRef | None, end: BlockRef) -> None:
        """A range was committed."""
        world = self._world
        node = next(one for one in world.nodes if one.name == node_name)
        block = world.chain.ever.get(end.hash)
        if block is None or block.number != end.number:
            self.wrong(f"EV3: the cursor of {node_name} stands at block {end.number}, which never was")
            return
        lowest = expected.number if expected is not None else self._beginning(node_name, stream, block)
        while block is not None and block.number > lowest:
            if block.hash not in node.lied_about:
                for one in block.requests:
                    if one.content.kind in BY_STREAM[stream] and "0x" + one.content.tx_hash.hex() not in node.omits:
                        self._must_be_stored(one, node_name, end)
            block = world.chain.ever.get(block.parent)
        self._testify(node_name, end, lowest if expected is not None else -1)

    def _testify(self, node_name: str, end: BlockRef, lowest: int) -> None:
        """Which node has shown which requests: also those of blocks that were read again, which it once hid."""
        block = self._world.chain.ever.get(end.hash)
        while block is not None and block.number > lowest - OVERLAP:
            for one in block.requests:
                self._scanned_by.setdefault(one.content.tx_hash, {})[node_name] = None
            block = self._world.chain.ever.get(block.parent)

    def _beginning(self, node_name: str, stream: Stream, end: Block) -> int:
        """The block after which a node without a cursor has to read: where another one stands, on the same history."""
        cursors = self._world.database.cursors.items()
        others = [ref for (name_, one), ref in cursors if one is stream and name_ != node_name]
        if not others:
            return -1
        lowest, block = min(others), end
        while block.number > lowest.number:
            block = self._world.chain.ever[block.parent]
        return lowest.number if block.hash == lowest.hash else -1

    def _must_be_stored(self, one: Included, node_name: str, end: BlockRef) -> None:
        database = self._world.database
        key = self._row_key(one)
        if one.content.variant == "garbage":
            if not any(
                bad is not None and bad.log.tx_hash == one.content.tx_hash for bad, _, _ in database.quarantine.values()
            ):
                self.wrong(f"EV6: an undecodable log is not in quarantine: {name(one)}")
            return
        if key in database.finished:
            return
        row = database.requests.get(key)
        if row is None:
            if not any(w.key == key for w in database.withdrawn):
                self.wrong(f"EV1: the cursor of {node_name} passed {name(one)} at block {end.number}: it is not stored")
        elif row.content_hash != events.content_hash(one.event) and not self._is_known_conflict(key, row):
            self.wrong(f"EV1: {name(one)} is stored with another meaning")

    def _is_known_conflict(self, key: Key, row: Request) -> bool:
        told = any(other == key for _, other, _ in self._world.database.quarantine.values())
        # another node's history may be the one that is stored, until that node too has read on
        return told or row.already_sent or row.status == "completed" or len(self._world.nodes) > 1

    def _is_quarantined(self, one: Included) -> bool:
        logs = quarantined_logs(self._world.database.quarantine)
        return any(bad.log.tx_hash == one.content.tx_hash for bad in logs)

    def _row_key(self, one: Included) -> Key:
        if one.content.kind is not Kind.PRSS_INIT:
            return one.content.kind, one.id
        rows = self._world.database.requests.values()
        found = [row.key for row in rows if row.kind is Kind.PRSS_INIT and row.tx_hash == one.content.tx_hash]
        return found[0] if found else (Kind.PRSS_INIT, one.id)

    # -- QU1, QU2, QU6, QU8: rows

    def changed(self, verb: str, actor: int | None, before: Row | None, after: Row | None) -> None:
        """A row changed."""
        row = after or before
        assert row is not None
        what = f"{'response of ' if row.is_response else ''}{row.kind.value} {ids.short(row.id)}"
        self._world.trace.add("row", verb, actor, what, before and before.status, after and after.status)
        if after is None:
            assert before is not None
            if (
                verb == "withdraw"
                and isinstance(before, Request)
                and (before.already_sent or before.status == "completed")
            ):
                self.wrong(f"EV5: {what} was withdrawn though it is with the Core")
            if verb == "expire" and before.status not in ("completed", "failed"):
                self.wrong(f"QU9: {what} expired while {before.status}")
            return
        if before is not None:
            self._check_transition(what, verb, actor, before, after)
        if after.status == "failed" and not after.last_error:
            self.wrong(f"QU8: {what} failed without words")
        if (after.status == "under_process") != (after.owner is not None):
            self.wrong(f"QU1: {what} is {after.status} with owner {after.owner}")
        if isinstance(after, Request) and after.status == "completed":
            self._completed_at.setdefault(after.key, trio.current_time())
        if isinstance(after, Response) and before is None:
            request = self._world.database.requests.get(after.key)
            if request is None or request.status != "completed":
                self.wrong(f"QU6: {what} is stored and its request is not completed")
        if isinstance(after, Request) and after.status == "failed":
            self._check_failure(what, after)
        stands = after.key in self._world.chain.head.state.requests and len(self._meanings.get(after.key, {})) < 2
        if isinstance(after, Response) and after.status == "failed" and stands:
            self.wrong(f"QU5: the {what} failed though nothing refused it for good: {after.last_error}")

    def _check_transition(self, what: str, verb: str, actor: int | None, before: Row, after: Row) -> None:
        forked = any(fault.what == "node.fork" for fault in self._world.plan.faults)  # a node may show what is not so
        undone = verb == "reopen" and (forked or before.key not in self._world.chain.head.state.votes)
        if before.status == "completed" and after.status != "completed" and not undone:
            self.wrong(f"QU2: {what} was completed and is {after.status} after {verb}")
        again = before.status == "failed" and after.status in ("pending", "under_process")
        if again and verb not in ("answered", "replace"):
            self.wrong(f"QU2: {what} was failed and is {after.status} after {verb}")
        if before.status == "under_process":
            if verb in ("claim", "claim_response"):
                self.wrong(f"QU2: {what} was claimed by {actor} while {before.owner} had it")
            elif verb not in LATE_COMPLETIONS | GIVEN | {"take_over", "end_stale"} and before.owner != actor:
                self.wrong(f"QU2: {actor} did {verb} to {what}, which {before.owner} had")
        if verb == "release" and not self._is_dead(before.owner):
            self.wrong(f"QU1: {what} was taken from owner {before.owner}, which lives")

    def _is_dead(self, epoch: int | None) -> bool:
        database = self._world.database
        owner = database.owners.get(epoch or 0)
        if owner is None or owner.heartbeat_at < database.clock() - DEAD_AFTER:
            return True
        newer = any(other.name == owner.name and n > (epoch or 0) for n, other in database.owners.items())
        return newer or any(one.stop.is_set() and one.name == owner.name for one in self._world.running)

    def _check_failure(self, what: str, row: Request) -> None:
        """Only a refusal for good fails a request: the ACL's, or an id that meant another request at the Core."""
        meanings = self._meanings.get(row.key, {})
        if len(meanings) > 1 or row.last_error == EARLIER_MEANING:
            return
        if not any(one.variant == "denied" for one in meanings):
            self.wrong(f"QU5: {what} failed though nothing refused it for good: {row.last_error}")

    # -- WK1, WK2, QU4, QU9: the Core

    def sent(self, life: Life, core: Core, kind: Kind, request_id: int, data: bytes) -> None:
        """A send reached a Core."""
        world, key = self._world, (kind, request_id)
        what = f"{kind.value} {ids.short(request_id)}"
        meanings = self._meanings.get(key, {})
        if kind is not Kind.PRSS_INIT and not meanings:
            self.wrong(f"WK1: {what} was sent to the Core and never was requested")
        if kind in DECRYPTIONS:
            right = [one for one in meanings if all(p.blob(m.ct_handle) in data for m in one.materials)]
            if not right:
                self.wrong(f"WK2: {what} was sent to the Core with other ciphertexts than requested")
            elif not all(world.allows(m.ct_handle) for one in right for m in one.materials):
                self.wrong(f"WK1: {what} was sent to the Core, which the ACL does not allow")
            for one in right:
                self._told.setdefault(key, {})[one] = None
        else:
            self._told.setdefault(key, {}).update(meanings)
            witnesses = [len(self._scanned_by.get(one.tx_hash, ())) for one in meanings]
            if world.plan.nodes > 1 and kind is not Kind.PRSS_INIT and max(witnesses, default=0) < 2:
                self.wrong(f"decisions.md 12: {what} was sent to the Core on one node's word")
        completed = self._completed_at.get(key)
        if completed is not None and trio.current_time() - completed > REPEATED_AFTER and kind is not Kind.PRSS_INIT:
            self.wrong(f"EV7: {what} was sent to the Core again after it was completed")
        if kind is Kind.KEYGEN and core.status_of(OPERATIONS[kind].send) is None:
            self._keygens_sent[request_id] = None
            row = world.database.requests.get(key)
            preparation = (Kind.PREP_KEYGEN, row.event.prep_keygen_id) if row is not None else None
            if preparation in world.database.requests and preparation not in world.database.responses:
                self.wrong(f"QU4: {what} was sent before the result of its preparation was stored")
        if kind is Kind.PREP_KEYGEN and request_id in core.consumed:
            self.wrong(f"QU4: preparation {what} was sent again after its keygen")

    def sending(self, life: Life, core: Core, kind: Kind) -> None:
        """Ceremonies on their way to a Core: one at a time."""
        open_sends = [one for one, _ in core.open_sends if one.alive]
        if kind in CEREMONIES and len(open_sends) > 1 and self._world.plan.daemons == 1:
            self.wrong(f"QU4: {len(open_sends)} ceremonies are sent to core {core.index} at the same time")

    # -- TX1, TX2: transactions

    def leaving(self, life: Life, raw: bytes) -> None:
        """Raw bytes are about to leave for a node."""
        if not life.alive:
            return
        transaction = decode(raw, with_sender=False).transaction
        lane = self._world.database.lanes.get((p.GATEWAY_ID, p.WALLET))
        entries = lane.journal.values() if lane is not None else ()
        if not any(entry.raw == raw for entry in entries if entry.nonce == transaction.nonce):
            self.wrong(f"TX1: nonce {transaction.nonce} leaves before it is in the journal")
        if transaction.data:
            known = self._calldata.setdefault(transaction.nonce, transaction.data)
            if known != transaction.data:
                self.wrong(f"TX2: nonce {transaction.nonce} leaves with two different calls")

    def journaled(self, verb: str, lane: Lane, before: JournalEntry | None, after: JournalEntry) -> None:
        """An entry of the journal was added or changed."""
        self._world.trace.add("tx", verb, after.nonce, after.attempt, after.state.value)
        if before is None:
            highest = lane.highest_nonce
            if highest is not None and after.nonce > highest + 1:
                added = {nonce for nonce, _ in lane.journal}
                if after.nonce - 1 not in added:
                    self.wrong(f"TX2: nonce {after.nonce} leaves a gap after {highest}")
            self._check_one_flight(lane, after)
        elif before.state is TxState.FINAL and after.state is not TxState.FINAL:
            self.wrong(f"TX2: nonce {after.nonce} was final and is {after.state.value}")
        elif after.state is TxState.MINED and before.tx_hash not in {h for b in self._ever_mined() for h in b}:
            self.wrong(f"TX2: nonce {after.nonce} is called mined and never was")

    def _ever_mined(self) -> list[Any]:
        return [block.state.mined for block in self._world.chain.ever.values() if block.transactions]

    def _check_one_flight(self, lane: Lane, new: JournalEntry) -> None:
        if new.kind is None:
            return
        for entry in lane.journal.values():
            same = (entry.kind, entry.id) == (new.kind, new.id) and entry.nonce != new.nonce
            if same and entry.state is TxState.SIGNED and not self._is_superseded(lane, entry):
                what = f"{new.kind.value} {ids.short(new.id or 0)}"
                self.wrong(f"TX1: {what} gets nonce {new.nonce} while {entry.nonce} may carry it")

    def _is_superseded(self, lane: Lane, entry: JournalEntry) -> bool:
        """Another attempt of the same nonce is settled, so this one can no longer be mined."""
        others = [one for one in lane.journal.values() if one.nonce == entry.nonce and one.attempt != entry.attempt]
        return any(one.state is not TxState.SIGNED for one in others)

    # -- bounds

    def look(self) -> None:
        """Now and then: nothing grows beyond its bound, and nobody dead is still an owner."""
        self._look_for_the_dead()
        for one in self._world.running:
            daemon = one.daemon
            if daemon is None:
                continue
            settings = daemon.settings
            if daemon.worker is not None and sum(daemon.worker.in_flight.values()) > 2 * settings.task_limit + 64:
                self.wrong("WK4: more requests in hand than there is room for")
            tenure = daemon.sender.tenure if daemon.sender is not None else None
            if tenure is not None and len(tenure.state.flights) > 2 * settings.tx_window:
                self.wrong("TX2: more transactions in flight than the window allows")

    def _look_for_the_dead(self) -> None:
        """A dead owner is found by whoever lives, once the database has answered for a while (QU1)."""
        world, clock = self._world, self._world.database.clock()
        if any(link.troubles for link in world.links("db", 0)):
            self._trouble_at = trio.current_time()
        before = trio.current_time() - FOUND_AFTER
        settled = [one for one in world.running if one.daemon is not None and one.since < before]
        if not settled or trio.current_time() - self._trouble_at < FOUND_AFTER:
            return
        for epoch, owner in world.database.owners.items():
            if owner.heartbeat_at < clock - FOUND_AFTER:
                self.wrong(f"QU1: owner {epoch} is silent for {FOUND_AFTER:.0f} s and still has its leases")

    def stopped(self, life: Life) -> None:
        """A daemon ended cleanly: nothing of it is left under process (PR1)."""
        database = self._world.database
        names = {n: owner.name for n, owner in database.owners.items()}
        for row in (*database.requests.values(), *database.responses.values()):
            if row.status == "under_process" and names.get(row.owner or 0) == life.name:
                self.wrong(f"PR1: {row.kind.value} {ids.short(row.id)} is still under process after a clean stop")

    # -- when all is quiet

    def left(self) -> str | None:
        """What is still to be done; None when nothing is."""
        world, database = self._world, self._world.database
        if world.chain.waiting or world.chain.later or world.chain.finished_by_others:
            return "requests wait for a block"
        head = world.chain.head
        for node in world.nodes:
            for stream in Stream:
                cursor = database.cursors.get((node.name, stream))
                if cursor is None or cursor.number < head.number - world.plan.confirmations - 20:
                    return f"{stream.value} of {node.name} is read up to {cursor}"
        deepest = head.number - world.plan.confirmations
        for one in head.state.requests.values():
            if (words := self._unanswered(one)) is not None:
                return words
        for row in (*database.requests.values(), *database.responses.values()):
            if row.status in ("pending", "under_process") and not self._is_orphan(row):
                return f"{row.kind.value} {ids.short(row.id)} is {row.status}: {row.last_error}"
        for row in database.requests.values():
            if row.kind is not Kind.PRSS_INIT and row.key not in head.state.requests and not row.orphaned:
                return f"EV5: {row.kind.value} {ids.short(row.id)} fell out of the chain and is {row.status}"
        for lane in database.lanes.values():
            for entry in lane.journal.values():
                if entry.state is TxState.SIGNED and not self._is_superseded(lane, entry):
                    return f"nonce {entry.nonce} is in flight"
                if entry.state is TxState.MINED and (entry.block_number or 0) + REORG_DEPTH < deepest - 400:
                    return f"nonce {entry.nonce} is not final"
        return None

    def _is_orphan(self, row: Row) -> bool:
        """What it was asked in fell out of the chain after it was sent, or its id means another request there by now:
        nobody waits for it any more."""
        request = self._world.database.requests.get(row.key)
        if request is None:
            return False
        standing = self._world.chain.head.state.requests.get(row.key)
        if standing is None:
            return request.orphaned or row.kind is Kind.PRSS_INIT
        return request.content_hash != events.content_hash(standing.event)

    def _unanswered(self, one: Included) -> str | None:
        """Why a request that stands on the chain is not answered; None when it is."""
        database, kind = self._world.database, one.content.kind
        key = self._row_key(one)
        if one.content.variant == "garbage":
            found = any(
                bad is not None and bad.log.tx_hash == one.content.tx_hash for bad, _, _ in database.quarantine.values()
            )
            return None if found else f"EV6: {name(one)} is not in quarantine"
        row = database.requests.get(key)
        if row is None:
            return f"EV1: {name(one)} is not stored"
        if len(self._meanings.get(key, {})) > 1 and row.content_hash != events.content_hash(one.event):
            told = any(other == key for _, other, _ in database.quarantine.values())
            return None if told else f"EV5: {name(one)} is stored with another meaning, and nobody was told"
        if row.status == "failed":
            return None  # judged when it failed
        if one.content.variant == "denied":
            return f"WK1: {name(one)} is {row.status} and must be refused"
        if row.status != "completed":
            return f"{name(one)} is {row.status}: {row.last_error}"
        if OPERATIONS[kind].response is None:
            done = (
                self._world.cores[0].prss
                if kind is Kind.PRSS_INIT
                else any(key in c.entries for c in self._world.cores)
            )
            return None if done or any(c.prss for c in self._world.cores) else f"WK5: the Core never did {name(one)}"
        if key in self._world.chain.head.state.votes:
            return None
        if (
            row.note is not None
            and row.note.startswith("finished by others")
            and key in self._world.chain.head.state.done
        ):
            return None
        response = database.responses.get(key)
        if response is None:
            return f"QU6: {name(one)} is completed without a response: {row.note}"
        return f"the response of {name(one)} is {response.status} and not on the chain: {response.last_error}"

    def over(self) -> None:
        """The daemons have stopped."""
        world, database = self._world, self._world.database
        for row in (*database.requests.values(), *database.responses.values()):
            if row.status == "under_process":
                self.wrong(f"PR1: {row.kind.value} {ids.short(row.id)} is under process and no daemon runs")
        if database.divergences and not any(len(m) > 1 for m in self._meanings.values()):
            self.wrong("decisions.md 34: a divergence from a committee that agrees with us")
        for key, data in world.chain.head.state.votes.items():
            self._check_vote(key, data)

    def _check_vote(self, key: Key, data: bytes) -> None:
        included = self._world.chain.head.state.requests[key]
        right = right_answer(included)
        if key[0] is Kind.PUBLIC_DECRYPTION and right is not None and right not in data:
            self.wrong(f"WK6: the answer to {name(included)} on the chain is wrong")


def name(one: Included) -> str:
    """A request in words."""
    return f"{one.content.kind.value} {ids.short(one.id)} ({one.content.variant} {one.content.number})"
