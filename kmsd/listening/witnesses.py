"""Which node reported which log: who omits some, and which ceremony waits for a second word (EV4; decisions.md 12).

Memory only, over the newest logs; the store decides what is acted on. What it is good for: counting omissions, saying
within seconds which node a ceremony waits for, and not decoding again what an overlap brings again.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import attrs

from kmsd.ports import Log

MAX_LOGS = 20_000
"""Logs remembered of a stream; past it, the oldest are forgotten."""

MARGIN = 16
"""Blocks that a node must have read beyond a log before its silence counts as an omission: overlaps read some again."""

LogKey = tuple[bytes, int]
"""Block hash and log index."""


def key_of(log: Log) -> LogKey:
    """What names a log across nodes."""
    return log.block_hash, log.log_index


@attrs.define
class _Sighting:
    block_number: int
    since: float
    seen_by: set[str]
    words: str | None
    judged: set[str] = attrs.field(factory=set)


class Waiting(NamedTuple):
    """A ceremony that one node alone has reported since `since`. `missing` are the others, `passed` those of them that
    have read past its block without reporting it."""

    words: str
    since: float
    reported_by: tuple[str, ...]
    missing: tuple[str, ...]
    passed: tuple[str, ...]


class Witnesses:
    """Sightings of one stream's logs by `nodes`."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = tuple(nodes)
        self._sightings: OrderedDict[LogKey, _Sighting] = OrderedDict()
        self._cursors: dict[str, int] = {}

    def known_to(self, node: str, log: Log) -> bool:
        """True when this very log of `node` was already stored."""
        sighting = self._sightings.get(key_of(log))
        return sighting is not None and node in sighting.seen_by

    def saw(self, node: str, logs: Sequence[Log], cursor: int, now: float, ceremonies: Mapping[LogKey, str]) -> None:
        """`node` has read and stored up to block `cursor` and reported `logs`; `ceremonies`: words for some."""
        for log in logs:
            key = key_of(log)
            sighting = self._sightings.get(key)
            if sighting is None:
                self._sightings[key] = _Sighting(log.block_number, now, {node}, ceremonies.get(key))
            else:
                sighting.seen_by.add(node)
        self._cursors[node] = cursor
        while len(self._sightings) > MAX_LOGS:
            self._sightings.popitem(last=False)

    def rewound(self, node: str, block_number: int) -> None:
        """`node` reads again from `block_number` on: what only it reported after that block may be no more."""
        self._cursors[node] = block_number
        for key in [k for k, s in self._sightings.items() if s.block_number > block_number]:
            sighting = self._sightings[key]
            sighting.seen_by.discard(node)
            if not sighting.seen_by:
                del self._sightings[key]

    def omissions(self) -> Mapping[str, int]:
        """How many logs each node was newly found to have passed without reporting them."""
        found: dict[str, int] = {}
        for sighting in self._sightings.values():
            for node, cursor in self._cursors.items():
                if (
                    cursor > sighting.block_number + MARGIN
                    and node not in sighting.seen_by
                    and node not in sighting.judged
                ):
                    sighting.judged.add(node)
                    found[node] = found.get(node, 0) + 1
        return found

    def waiting(self, older_than: float) -> list[Waiting]:
        """Ceremonies first reported before the instant `older_than`, by one node alone."""
        if len(self._nodes) < 2:
            return []
        return [
            Waiting(
                sighting.words,
                sighting.since,
                tuple(sorted(sighting.seen_by)),
                missing := tuple(node for node in self._nodes if node not in sighting.seen_by),
                tuple(node for node in missing if self._cursors.get(node, -1) > sighting.block_number),
            )
            for sighting in self._sightings.values()
            if sighting.words is not None and len(sighting.seen_by) == 1 and sighting.since <= older_than
        ]
