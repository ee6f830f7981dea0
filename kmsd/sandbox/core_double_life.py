"""What all operations of the Core double share: settings, party, tokens, what survives, and how things end."""

import asyncio
from collections.abc import Callable

import attrs
from grpclib.const import Status

from kmsd.sandbox.core_double_results import Signer
from kmsd.sandbox.core_double_store import Durable, Entry, Limiter, Refusal

DEFAULT_CONTEXT = int("01" * 29 + "020304", 16)
DEFAULT_EPOCH = 1


@attrs.define
class Settings:
    """What the command line and `POST /settings` set. Times in seconds; `rate` 0: no limit of decryptions a second."""

    latency: float = 0.02
    jitter: float = 0.0
    rate: float = 0.0
    ceremony: float = 0.2
    init: float = 0.1
    long_poll: float = 60.0
    rate_tokens: int = 50_000
    dec_capacity: int = 10_000
    min_dec_cache: int = 6_000


class Life:
    """One life of the process; `restart` begins the next one, in which nothing of the last one ends any more."""

    def __init__(self, signer: Signer, settings: Settings, durable: Durable) -> None:
        self.signer = signer
        self.settings = settings
        self.durable = durable
        self.limiter = Limiter(settings.rate_tokens)
        self._number = 0

    def restart(self) -> None:
        """What was running is gone, and its tokens are free."""
        self._number += 1
        self.limiter.held = 0

    def take(self, method: str) -> int:
        """The tokens that `method` costs. Raises Refusal when there are too few."""
        cost = self.limiter.take(method)
        if not cost:
            raise Refusal(Status.RESOURCE_EXHAUSTED)
        return cost

    def later(
        self,
        delay: float,
        entry: Entry,
        cost: int,
        done: Callable[[], None] | None = None,
        *,
        fails: bool = False,
    ) -> None:
        """End an operation after `delay` seconds and give its tokens back; `done` is called if it succeeds."""
        number = self._number

        def end() -> None:
            if number != self._number:
                return
            self.limiter.held -= cost
            if entry.finished:
                return
            if done is not None and not fails:
                done()
            entry.finish(failed=fails)

        asyncio.get_running_loop().call_later(delay, end)
