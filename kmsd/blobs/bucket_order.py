"""Which bucket is asked first: the ones in good health, in a different order for each object; a dead one last.

Pure but for its memory. A bucket that failed rests for a while, longer each time; when its rest is over one download
tries it first, and the others go on as if it still rested, until it has served something.
"""

from collections.abc import Sequence

import attrs

from kmsd.ports import BlobFault

FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds that a bucket rests after a fault of its own, doubling with each in a row."""
MAX_BUCKETS = 512
"""Buckets remembered; URLs come from the chain. Past it the one that was used longest ago is forgotten."""

OUTAGES = frozenset(
    {
        BlobFault.CONNECT,
        BlobFault.STALLED,
        BlobFault.DEADLINE,
        BlobFault.TLS,
        BlobFault.BROKEN,
        BlobFault.HTTP_STATUS,
    }
)
"""Faults that say that the bucket cannot be used now: with one, no request is to blame for a missing ciphertext."""
RESTING = OUTAGES | {BlobFault.FORBIDDEN_ADDRESS, BlobFault.BAD_URL, BlobFault.WRONG_BYTES}
"""Faults that say something about the bucket, not only about the object."""


@attrs.define
class BucketState:
    """What is known of one bucket. `names_format`: whether its last object named a known format; None before one."""

    faults: int = 0
    rests_until: float = 0.0
    names_format: bool | None = None


class BucketOrder:
    """Remembers buckets by URL; all instants are trio's clock."""

    def __init__(self) -> None:
        self._states: dict[str, BucketState] = {}

    def state(self, url: str) -> BucketState:
        """The bucket's state, to read."""
        return self._states.get(url, BucketState())

    def order(self, urls: Sequence[str], later: Sequence[str], key: bytes, now: float) -> list[str]:
        """`urls`, then `later`, in the order in which to ask them for the object `key`, each once."""
        turn = key[0] % len(urls) if urls and key else 0
        turned = list(dict.fromkeys([*urls[turn:], *urls[:turn], *later]))
        trial = next((url for url in turned if self._is_trial(url, now)), None)
        if trial is not None:
            self._states[trial].rests_until = now + FIRST_REST  # the others wait for the outcome of this trial
        return sorted(turned, key=lambda url: (url != trial, *self._rank(url)))

    def good(self, url: str, names_format: bool) -> None:
        """The bucket gave the right bytes."""
        state = self._touch(url)
        state.faults, state.rests_until, state.names_format = 0, 0.0, names_format

    def bad(self, url: str, fault: BlobFault, now: float) -> None:
        """The bucket did not give the object. What is only about the object changes nothing."""
        if fault in RESTING:
            state = self._touch(url)
            if now >= state.rests_until or state.faults == 0:
                state.faults += 1
            state.rests_until = now + min(LONGEST_REST, FIRST_REST * 2.0 ** min(state.faults - 1, 10))

    def _is_trial(self, url: str, now: float) -> bool:
        state = self.state(url)
        return state.faults > 0 and now >= state.rests_until

    def _rank(self, url: str) -> tuple[float, bool]:
        """Healthy before resting (first the one whose rest ends first), naming formats before not."""
        state = self.state(url)
        return (state.rests_until if state.faults else 0.0), state.names_format is False

    def _touch(self, url: str) -> BucketState:
        state = self._states.pop(url, None) or BucketState()
        while len(self._states) >= MAX_BUCKETS:
            del self._states[next(iter(self._states))]
        self._states[url] = state
        return state
