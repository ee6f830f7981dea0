"""What a Core remembers: operations by id, running, finished, failed or burnt (wire/kms-core.md 3.5)."""

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from grpclib.const import Status

Result = Callable[[], Any]
"""Makes the reply, a message or bytes, when it is first polled for; raises to say that the operation failed."""


@attrs.define(eq=False)
class Entry:
    """One operation. A burnt one never finishes; a failed one has no result. `waiters` wait for the end.

    `reply` is a message, or encoded already. `request` is kept for decryptions, so that a reply can be spoilt.
    """

    make: Result | None
    finished: bool = False
    failed: bool = False
    reply: Any = None
    request: Any = None
    waiters: list["asyncio.Future[None]"] = attrs.field(factory=list)

    def finish(self, *, failed: bool = False) -> None:
        """The operation ended."""
        self.finished = True
        self.failed = failed
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    async def wait(self, seconds: float) -> bool:
        """True when the operation has ended, at once or within `seconds`."""
        if not self.finished and seconds > 0:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            try:
                async with asyncio.timeout(seconds):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if waiter in self.waiters:
                    self.waiters.remove(waiter)
        return self.finished

    def result(self) -> Any:
        """The reply, made once; None when the operation failed."""
        if self.reply is None and not self.failed and self.make is not None:
            try:
                self.reply = self.make()
            except Exception:
                self.failed = True
            self.make = None
        return None if self.failed else self.reply


class Store:
    """Operations of one kind. `capacity` None: unbounded; else the oldest finished one may be evicted."""

    def __init__(self, capacity: int | None = None, min_cache: int = 0) -> None:
        self.entries: OrderedDict[int, Entry] = OrderedDict()
        self._capacity = capacity
        self._min_cache = min_cache

    def room(self) -> bool:
        """Make room for one more: True, or False when the store is full of unfinished or too few finished ones."""
        if self._capacity is None or len(self.entries) < self._capacity:
            return True
        finished = 0
        oldest: int | None = None
        for number, entry in self.entries.items():
            if entry.finished:
                oldest = number if oldest is None else oldest
                finished += 1
                if finished > self._min_cache:
                    del self.entries[oldest]
                    return True
        return False

    def add(self, number: int, make: Result | None) -> Entry:
        """Register an operation."""
        entry = Entry(make)
        self.entries[number] = entry
        return entry


class Limiter:
    """The Core's shared token pool, without a queue; tokens are held until the operation ends."""

    COSTS = {  # noqa: RUF012  # constant
        "PublicDecrypt": 1,
        "UserDecrypt": 1,
        "CrsGen": 100,
        "KeyGenPreproc": 25_000,
        "KeyGen": 1_000,
        "InitiateResharing": 1,
    }

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self.held = 0

    def take(self, method: str) -> int:
        """Tokens taken for `method`, 0 when there are too few."""
        cost = self.COSTS[method]
        if self.held + cost > self.bucket:
            return 0
        self.held += cost
        return cost


class Refusal(Exception):
    """A gRPC status that the double answers."""

    def __init__(self, status: Status, detail: str = "") -> None:
        super().__init__(detail)
        self.status = status


@attrs.define
class Durable:
    """What survives a restart of a threshold Core: keys, keygen and CRS results, PRSS. Ids as 64 hex digits.

    `keygens` and `crs` map an id to what its result is made of again. A centralized Core keeps keys and CRS only.
    """

    path: Path | None = None
    keys: set[str] = attrs.field(factory=set)
    keygens: dict[str, list[str]] = attrs.field(factory=dict)
    crs: dict[str, list[str]] = attrs.field(factory=dict)
    prss: bool = False

    @classmethod
    def load(cls, path: Path | None) -> "Durable":
        """From the file, if there is one."""
        durable = cls(path)
        if path is not None and path.exists():
            data = json.loads(path.read_text())
            durable.keys = set(data["keys"])
            durable.keygens, durable.crs, durable.prss = data["keygens"], data["crs"], data["prss"]
        return durable

    def save(self) -> None:
        """Write the file atomically."""
        if self.path is None:
            return
        data = {"keys": sorted(self.keys), "keygens": self.keygens, "crs": self.crs, "prss": self.prss}
        scratch = self.path.with_suffix(".new")
        scratch.write_text(json.dumps(data))
        os.replace(scratch, self.path)
