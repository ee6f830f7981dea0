"""Lives of daemons, and the one way in which anything reaches the world from inside of one.

A crash is not a cancellation: cancelling runs `finally` blocks, a power failure does not. So a life that was killed is
cancelled to get rid of its tasks, but from that instant on nothing that it does has any effect (`Life.alive`).
"""

import hashlib
import random
from collections.abc import Callable
from typing import TypeVar

import attrs
import trio

from kmsd.ports import DependencyDown

T = TypeVar("T")

LATE = 2.0
"""Seconds within which a request that its sender gave up may still arrive."""


class Trace:
    """Everything that crossed a port, as a running digest; whole lines where somebody wants to read them."""

    def __init__(self, keep: bool = False) -> None:
        self._digest = hashlib.sha256()
        self.lines: list[str] | None = [] if keep else None
        self.count = 0

    def add(self, *words: object) -> None:
        """One line."""
        line = f"{trio.current_time():.6f} {' '.join(map(str, words))}"
        self.count += 1
        self._digest.update(line.encode() + b"\n")
        if self.lines is not None:
            self.lines.append(line)

    def digest(self) -> str:
        """Of all lines so far."""
        return self._digest.hexdigest()[:32]


@attrs.define(eq=False)
class Life:
    """One process from its start to its end: what SIGKILL ends. `power_at`: calls left until the power fails."""

    name: str
    number: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    alive: bool = True
    power_in: int | None = None
    power_after: bool = False
    on_death: list[Callable[[], None]] = attrs.field(factory=list)

    def __str__(self) -> str:
        return f"{self.name}#{self.number}"

    def kill(self) -> None:
        """SIGKILL: nothing of this life has an effect any more."""
        if not self.alive:
            return
        self.alive = False
        for tell in self.on_death:
            tell()
        self.scope.cancel()

    def fail_power(self, after_calls: int, *, after_effect: bool) -> None:
        """Kill it at its `after_calls`-th next call of a port, before the call has its effect or between it and the
        answer."""
        self.power_in, self.power_after = after_calls, after_effect


@attrs.define
class Trouble:
    """What is wrong with one dependency now. Chances are drawn for each call.

    `down`: refused at once; `hang`: no answer before the caller's patience ends; `held`: answers only when the trouble
    is over (a failover); `lose`: chance that the answer vanishes though the work was done; `fail`: chance of an error
    before anything was done; `twice`: chance that the work is done twice; `slow`: seconds that every call takes longer.
    """

    down: bool = False
    hang: bool = False
    held: bool = False
    lose: float = 0.0
    fail: float = 0.0
    twice: float = 0.0
    slow: float = 0.0


class Link:
    """The way to one dependency. `name` is what an error calls it."""

    def __init__(self, name: str, chance: random.Random, trace: Trace, late: Callable[..., None]) -> None:
        self.name = name
        self.latency = (0.001, 0.02)
        self.troubles: dict[str, Trouble] = {}
        self._changed: trio.Event | None = None
        self._chance = chance
        self._trace = trace
        self._late = late

    def begin(self, key: str, trouble: Trouble) -> None:
        """From now on this is wrong too."""
        self.troubles[key] = trouble
        self._ring()

    def end(self, key: str) -> None:
        """That is over."""
        self.troubles.pop(key, None)
        self._ring()

    def _ring(self) -> None:
        if self._changed is not None:
            self._changed.set()
        self._changed = None

    def _any(self, what: str) -> bool:
        return any(getattr(trouble, what) for trouble in self.troubles.values())

    def _drawn(self, what: str) -> bool:
        chance = max((getattr(trouble, what) for trouble in self.troubles.values()), default=0.0)
        return chance > 0.0 and self._chance.random() < chance

    def _pause(self) -> float:
        low, high = self.latency
        return low + (high - low) * self._chance.random() + sum(t.slow for t in self.troubles.values())

    async def exchange(self, life: Life, verb: str, effect: Callable[[], T], *, deadline: float, write: bool) -> T:
        """Ask, have the effect, answer; each may fail. `effect` happens at one instant, and raises what the world says.

        Raises DependencyDown. A `write` that was cancelled or given up on its way may still arrive.
        """
        await self.leave(life, verb)
        if self._drawn("fail") or self._any("down"):
            await trio.sleep(self._pause())
            raise DependencyDown(self.name, "connection refused")
        arrived = False
        try:
            if not self.troubles:
                await trio.sleep(self._pause())
                arrived = True
            else:
                with trio.move_on_after(deadline):
                    await trio.sleep(self._pause())
                    while self._any("held") or self._any("hang"):
                        if self._changed is None:
                            self._changed = trio.Event()
                        await self._changed.wait()
                    arrived = True
        finally:
            if not arrived and write and self._chance.random() < 0.5:
                self._late(LATE * self._chance.random(), lambda: self._arrive(life, f"{verb} (late)", effect))
        if not arrived:
            raise DependencyDown(self.name, f"no answer within {deadline:g} s")
        if not life.alive:
            raise DependencyDown(self.name, "this process is dead")
        if write and self._drawn("twice"):
            self._arrive(life, f"{verb} (twice)", effect)
        result = self._arrive(life, verb, effect)
        await self.arrive(life)
        if write and self._drawn("lose"):
            self._trace.add(life, verb, "answer lost")
            raise DependencyDown(self.name, "connection lost")
        if self._chance.random() < 0.3:
            await trio.sleep(self._pause())
        return result

    def _arrive(self, life: Life, verb: str, effect: Callable[[], T]) -> T:
        try:
            result = effect()
        except Exception as error:
            self._trace.add(life, verb, "!", type(error).__name__, error)
            raise
        self._trace.add(life, verb, brief(result))
        return result

    async def leave(self, life: Life, verb: str) -> None:
        """A call begins: not from a dead process, and the power may fail just now."""
        if not life.alive:
            await trio.lowlevel.checkpoint()
            raise DependencyDown(self.name, "this process is dead")
        if life.power_in is not None:
            life.power_in -= 1
            if life.power_in <= 0 and not life.power_after:
                self._trace.add(life, verb, "power failure before")
                life.kill()
                await trio.sleep_forever()

    async def arrive(self, life: Life) -> None:
        """The effect has happened: the power may fail before the answer is there."""
        if life.power_in is not None and life.power_in <= 0:
            self._trace.add(life, "power failure after")
            life.kill()
            await trio.sleep_forever()


def brief(result: object) -> str:
    """A result in few words, the same in every process; what rows become of it is told besides."""
    if result is None or isinstance(result, (bool, int, float, str)):
        return str(result)
    if isinstance(result, list):
        return f"[{len(result)}]" if len(result) > 3 else f"[{' '.join(map(brief, result))}]"
    told = getattr(result, "error", None) or getattr(result, "status", None) or getattr(result, "id", None)
    return f"{type(result).__name__}{'' if told is None else f' {told}'}"
