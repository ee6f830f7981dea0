"""What is up, what is down and since when; answered from memory, so always at once (guarantee PR3).

Siblings and probes report (`ok`, `fault`, `alert`, `clear`); `/healthz`, `kmsd status`, `kmsd doctor` and the metrics
read. A dependency bears the name that `DependencyDown.name` gives it: `database`, `gateway node main`,
`host chain 11155111`, `core http://…:50051`, `bucket …`. The checks over these facts are data: `health_checks.py`.
"""

import logging
from collections.abc import Mapping, Sequence

import attrs

from kmsd.observe.heartbeats import Heartbeats
from kmsd.ports import Time

log = logging.getLogger("kmsd.health")

MAX_DEPENDENCIES = 256
"""Names remembered (buckets come from the chain): past it, the one that was heard of longest ago is forgotten."""
MAX_ALERTS = 256
"""Alerts remembered: past it, the oldest is forgotten (it stays in the log)."""
MAX_WORDS = 500
"""Characters kept of a detail or an alert."""


@attrs.define
class Dependency:
    """One dependency as last heard of. Instants are Unix seconds, None: never.

    `up` is None while nobody has asked it yet. `changed` is when `up` took its present value.
    """

    name: str
    up: bool | None = None
    last_ok: float | None = None
    last_fault: float | None = None
    changed: float | None = None
    detail: str = ""
    faults: int = 0

    @property
    def last_report(self) -> float | None:
        """When it was last heard of, whether good or bad."""
        return max((t for t in (self.last_ok, self.last_fault) if t is not None), default=None)


@attrs.frozen
class Alert:
    """A condition that an operator must see until it is cleared. `since` in Unix seconds, kept when words change."""

    key: str
    words: str
    since: float


class Health:
    """The daemon's knowledge of its dependencies and of conditions that need an operator.

    `expected` dependencies are shown from the start, as unknown until they are first heard of. `heartbeats` are the
    signs of life of our own loops.
    """

    def __init__(self, time: Time, expected: Sequence[str] = ()) -> None:
        self.heartbeats = Heartbeats()
        self._time = time
        self._dependencies: dict[str, Dependency] = {name: Dependency(name) for name in expected}
        self._alerts: dict[str, Alert] = {}

    @property
    def dependencies(self) -> Mapping[str, Dependency]:
        """Dependencies by name, in the order in which they became known."""
        return self._dependencies

    @property
    def alerts(self) -> Sequence[Alert]:
        """Active alerts, oldest first."""
        return tuple(self._alerts.values())

    def now(self) -> float:
        """Unix seconds by the clock of all instants here."""
        return self._time.now()

    def expect(self, dependency: str) -> None:
        """Show `dependency` from now on, as unknown until it is heard of."""
        self._known(dependency)

    def forget(self, dependency: str) -> None:
        """Stop showing a dependency that is no longer used (a bucket that left the registry)."""
        self._dependencies.pop(dependency, None)

    def ok(self, dependency: str) -> None:
        """`dependency` has just answered."""
        known = self._known(dependency)
        known.last_ok = now = self._time.now()
        if known.up is not True:
            if known.up is False:
                log.info("%s is back after %.0f s", dependency, now - (known.changed or now))
            known.up, known.changed, known.detail = True, now, ""

    def fault(self, dependency: str, detail: str) -> None:
        """`dependency` could not be asked; `detail` says why, without secrets."""
        known = self._known(dependency)
        known.last_fault = now = self._time.now()
        known.detail = detail[:MAX_WORDS]
        known.faults += 1
        if known.up is not False:
            log.warning("%s is down: %s", dependency, known.detail)
            known.up, known.changed = False, now

    def is_up(self, dependency: str) -> bool:
        """False only when the last word about `dependency` was a fault; what nobody asked yet counts as up."""
        known = self._dependencies.get(dependency)
        return known is None or known.up is not False

    def alert(self, key: str, words: str) -> None:
        """Raise the alert `key`, or change the words of the one that is there."""
        before = self._alerts.get(key)
        words = words[:MAX_WORDS]
        if before is not None and before.words == words:
            return
        if before is None:
            log.error("alert %s: %s", key, words)
            if len(self._alerts) >= MAX_ALERTS:
                del self._alerts[next(iter(self._alerts))]
        self._alerts[key] = Alert(key, words, self._time.now() if before is None else before.since)

    def clear(self, key: str) -> None:
        """End the alert `key`; nothing when it was not raised."""
        ended = self._alerts.pop(key, None)
        if ended is not None:
            log.info("alert %s is over after %.0f s", key, self._time.now() - ended.since)

    def _known(self, name: str) -> Dependency:
        known = self._dependencies.get(name)
        if known is None:
            if len(self._dependencies) >= MAX_DEPENDENCIES:
                stalest = min(self._dependencies.values(), key=lambda dependency: dependency.last_report or 0.0)
                del self._dependencies[stalest.name]
            known = self._dependencies[name] = Dependency(name)
        return known
