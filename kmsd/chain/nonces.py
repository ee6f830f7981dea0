"""The lane in memory: which nonce carries what, what is due, and how many may be in flight. Pure (decisions.md 21, 22).

A nonce is *in flight* from its journal row until a transaction of it is mined; then it is *watched* until it is deep
enough for no reorganisation to bring it back. Instants are those of the caller's monotonic clock, in seconds.
"""

import itertools
from collections.abc import Iterable, Sequence

import attrs

from kmsd.operations.kinds import Kind
from kmsd.ports import JournalEntry, TxState

REORG_DEPTH = 64
"""Blocks on top of a transaction after which it is no longer watched."""

SMALLEST_WINDOW = 64
"""Transactions in flight that the window starts with and never falls below (unless configured smaller)."""

MAX_REPLACEMENTS = 64
"""Lowest nonces that are replaced at a time: those behind them wait for these anyway."""

RESEND_AFTER = 5.0
"""Seconds after which bytes of a line that does not move are offered again, in case pools dropped them."""


class Window:
    """How many transactions may be in flight: grows while the chain takes all of them, halves when a node says no.

    It grows fourfold until a node says no for the first time, and doubles from then on.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._growth = 4
        self.size = min(SMALLEST_WINDOW, largest)

    def mined(self, count: int, in_flight_before: int) -> None:
        """`count` of `in_flight_before` were mined at once: where they nearly filled the window, it grows."""
        if in_flight_before * 4 >= self.size * 3 and count * 2 >= in_flight_before:
            self.size = min(self._largest, self.size * self._growth)

    def pressed(self) -> None:
        """A node had no room for a transaction."""
        self._growth = 2
        self.size = max(min(SMALLEST_WINDOW, self._largest), self.size // 2)


@attrs.define
class Flight:
    """A nonce in flight and every transaction signed for it, the last one being the one to broadcast.

    `key` names the response that it carries or waits with (None for a filler of a hole). `taken_at`, `sent_at`: when
    a node first and last took the last attempt. `missing_since`: the nonce is mined, but none of our hashes has a
    receipt. `refused`: the words with which every node refused the transaction for good; a filler takes the nonce.
    """

    nonce: int
    attempts: list[JournalEntry]
    key: tuple[Kind, int] | None
    taken_at: float | None = None
    sent_at: float | None = None
    missing_since: float | None = None
    refused: str | None = None

    @property
    def last(self) -> JournalEntry:
        """The attempt that is to be mined."""
        return self.attempts[-1]

    @property
    def is_filler(self) -> bool:
        """True when the last attempt is an empty self-transfer."""
        return self.last.kind is None


@attrs.define
class Landed:
    """A nonce that is mined but not yet deep: the mined attempt, and the others, which a reorganisation may revive."""

    mined: JournalEntry
    others: list[JournalEntry]


class LaneState:
    """Nonces of one wallet: in flight, watched, next. Every change here follows a committed journal row."""

    def __init__(self) -> None:
        self.next_nonce = 0
        self.flights: dict[int, Flight] = {}
        self.watched: dict[int, Landed] = {}
        self.unsent: set[int] = set()
        self.mined_count = 0
        """Mined transactions of the wallet when the chain was last looked at."""
        self.last_cost = 0
        """wei that a node wants the wallet to have for the transaction that was signed last."""

    def adopt(self, entries: Iterable[JournalEntry], highest: int | None) -> None:
        """Take over the unfinished entries of the journal at start. All of them count as not yet broadcast."""
        by_nonce: dict[int, list[JournalEntry]] = {}
        for entry in sorted(entries, key=lambda entry: (entry.nonce, entry.attempt)):
            by_nonce.setdefault(entry.nonce, []).append(entry)
        for attempts in by_nonce.values():
            mined = next((entry for entry in attempts if entry.state is TxState.MINED), None)
            if mined is not None:
                self._watch(mined, attempts)
            else:
                self._fly(attempts)
        if highest is not None:
            self.next_nonce = max(self.next_nonce, highest + 1)

    def add(self, entries: Sequence[JournalEntry]) -> None:
        """Nonces that were signed and journaled, in order from `next_nonce`, or fillers of holes below it."""
        for entry in entries:
            self._fly([entry])
            self.last_cost = entry.gas_limit * entry.max_fee_per_gas
            self.next_nonce = max(self.next_nonce, entry.nonce + 1)

    def replace(self, entry: JournalEntry) -> None:
        """Another attempt for a nonce in flight."""
        flight = self.flights[entry.nonce]
        flight.attempts.append(entry)
        flight.taken_at = flight.sent_at = None
        self.unsent.add(entry.nonce)

    def sent(self, nonce: int, attempt: int, now: float) -> None:
        """A node took this attempt, or has it already."""
        flight = self.flights.get(nonce)
        if flight is not None and flight.last.attempt == attempt:
            flight.sent_at = now
            flight.taken_at = flight.taken_at if flight.taken_at is not None else now
            self.unsent.discard(nonce)

    def resend(self, nonces: Iterable[int]) -> None:
        """Broadcast the last attempts of these again."""
        self.unsent.update(nonce for nonce in nonces if nonce in self.flights)

    def stale(self, now: float) -> list[int]:
        """Unmined nonces whose bytes a node took long ago, lowest first."""
        return [
            flight.nonce
            for flight in self._line()
            if flight.sent_at is not None and now - flight.sent_at > RESEND_AFTER
        ]

    def mined(self, entry: JournalEntry) -> None:
        """An attempt was mined (state, block and status are in `entry`): watched from now on."""
        flight = self.land(entry.nonce)
        self._watch(entry, flight.attempts if flight is not None else [])

    def land(self, nonce: int) -> Flight | None:
        """Forget a nonce that is no longer in flight."""
        self.unsent.discard(nonce)
        return self.flights.pop(nonce, None)

    def fell_out(self, attempts: Sequence[JournalEntry]) -> None:
        """A watched nonce fell out of the chain: in flight again, to be broadcast. `attempts` have their raw bytes."""
        self.watched.pop(attempts[0].nonce, None)
        self._fly(list(attempts))

    def deep(self, head: int, limit: int) -> list[Landed]:
        """Up to `limit` watched nonces that no reorganisation reaches any more."""
        deep: list[Landed] = []
        for landed in self.watched.values():  # in the order in which they were mined, so the first young one ends it
            if (landed.mined.block_number or 0) + REORG_DEPTH > head or len(deep) >= limit:
                break
            deep.append(landed)
        return deep

    def sentinel(self) -> JournalEntry | None:
        """The entry that was mined last: while its block stands, so do all below it."""
        landed = next(reversed(self.watched.values()), None)
        return landed.mined if landed is not None else None

    @property
    def unmined(self) -> int:
        """How many in flight no block holds yet: what the window bounds. The others only wait for their receipts."""
        return sum(nonce >= self.mined_count for nonce in self.flights)

    def below(self, count: int) -> list[Flight]:
        """Flights whose nonce the chain has mined, lowest first."""
        return [self.flights[nonce] for nonce in sorted(self.flights) if nonce < count]

    def holes(self, count: int) -> list[int]:
        """The first nonces from the chain's `count` on that nothing of ours occupies, with higher ones in flight."""
        if not self.flights:
            return []
        below = range(count, max(self.flights))
        holes = (nonce for nonce in below if nonce not in self.flights and nonce not in self.watched)
        return list(itertools.islice(holes, MAX_REPLACEMENTS))

    def carried(self) -> list[tuple[Kind, int]]:
        """The responses that nonces in flight carry."""
        return [flight.key for flight in self.flights.values() if flight.key is not None]

    def to_send(self, limit: int) -> list[Flight]:
        """The lowest unmined nonces that wait for their broadcast."""
        waiting = sorted(nonce for nonce in self.unsent if nonce >= self.mined_count)
        return [self.flights[nonce] for nonce in waiting[:limit]]

    def head_of_line(self) -> Flight | None:
        """The lowest unmined nonce in flight: nothing above it can be mined first."""
        return next(iter(self._line()), None)

    def overdue(self, now: float, resubmit_after: float) -> list[Flight]:
        """Flights to replace by dearer ones: none while the head of line is young, else the lowest old ones."""
        overdue: list[Flight] = []
        for flight in self._line():
            if flight.taken_at is None:
                continue  # no node has it, so it cannot be in their way
            if now - flight.taken_at < resubmit_after or len(overdue) >= MAX_REPLACEMENTS:
                break
            overdue.append(flight)
        return overdue

    def _line(self) -> list[Flight]:
        """Unmined flights, lowest nonce first."""
        return [self.flights[nonce] for nonce in sorted(self.flights) if nonce >= self.mined_count]

    def _watch(self, mined: JournalEntry, attempts: Iterable[JournalEntry]) -> None:
        others = [without_raw(entry) for entry in attempts if entry.attempt != mined.attempt]
        self.watched[mined.nonce] = Landed(without_raw(mined), others)

    def _fly(self, attempts: list[JournalEntry]) -> None:
        nonce = attempts[0].nonce
        key = next(((e.kind, e.id) for e in attempts if e.kind is not None and e.id is not None), None)
        self.flights[nonce] = Flight(nonce, attempts, key)
        self.unsent.add(nonce)


def without_raw(entry: JournalEntry) -> JournalEntry:
    """The entry without its bytes: thousands are watched, and the journal has them."""
    return attrs.evolve(entry, raw=b"") if entry.raw else entry
