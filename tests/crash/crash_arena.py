"""A world that is broken again and again: daemons as processes, requests at hand, faults, and the audit afterwards.

Blocking. One arena serves many faults; what a fault left is audited before the next one.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import crash_table
from crash_audit import Auditor, Findings

from kmsd.sandbox.accounts import Call
from kmsd.sandbox.process import ChildProcess
from kmsd.sandbox.requester import Prepared
from kmsd.sandbox.world import PARTY, Plan, World

PUBLIC, USER = 12, 8
"""Decryptions of one round."""
LOT = 120
"""Public decryptions that are prepared at once; user decryptions in proportion."""
PATIENCE = 75.0
"""Seconds after which waiting for anything is a failure."""
POLL = 0.25
LIMIT = 15.0
"""Seconds within which everything must be done after a fault's end (issue 3), on a machine that is not starved."""

NEVER = 86_400_000.0
"""Milliseconds after which the fourth party answers: kmsd's answer is the one that decides, however late it is."""


class Arena:
    """The world with its daemons by name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemons: dict[str, ChildProcess] = {}
        self._written: dict[str, int] = {}
        self.requester = world.requester()
        self.auditor = Auditor(world.gateway.port, world.host.port, world.deployment, world.postgres)
        self._public: list[bytes] = []
        self._user: list[tuple[bytes, ...]] = []
        self._key_id = 0
        self._audited = 0
        self._may_fail = 0
        self.nodes: Sequence[Mapping[str, str]] | None = None
        """The Gateway's nodes that daemons are told of; None: the world's own."""

    # -- daemons

    def start(self, name: str = "kmsd", *, failpoint: str = "", roles: Sequence[str] = ()) -> ChildProcess:
        """A daemon of this name, with a monitoring port of its own."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("KMS", "PG", "NOTIFY"))}
        env |= {"PYTHONUNBUFFERED": "1", "KMS_CONNECTOR_INSTANCE_NAME": name}
        env["KMS_CONNECTOR_MONITORING_ENDPOINT"] = "127.0.0.1:0"
        if roles:
            env["KMS_CONNECTOR_ROLES"] = ",".join(roles)
        if failpoint:
            env["KMSD_FAILPOINT"] = failpoint
        if self.nodes is not None:
            env["KMS_CONNECTOR_GATEWAY_NODES"] = json.dumps(list(self.nodes))
        argv = [sys.executable, "-m", "kmsd", "--config", str(self.world.config_file)]
        daemon = ChildProcess(name, argv, self.world.folder, env=env)
        self._written[name] = daemon.stderr_path.stat().st_size if daemon.stderr_path.exists() else 0
        daemon.start()
        self.daemons[name] = daemon
        return daemon

    def serving(self, *names: str) -> None:
        """Wait until these daemons, in the life that was started last, have enrolled as owners."""
        self.until(lambda: all(map(self._has_enrolled, names)), f"{', '.join(names)} enrolled")

    def _has_enrolled(self, name: str) -> bool:
        return b"owner epoch" in self.daemons[name].stderr_path.read_bytes()[self._written[name] :]

    def ensure(self, name: str = "kmsd") -> ChildProcess:
        """The daemon of this name, started if it does not run."""
        daemon = self.daemons.get(name)
        return daemon if daemon is not None and daemon.alive() else self.start(name)

    def kill(self, name: str = "kmsd") -> None:
        """SIGKILL, if it runs."""
        if name in self.daemons:
            self.daemons[name].kill()

    def stop(self, name: str = "kmsd") -> int | None:
        """SIGTERM; the exit status."""
        return self.daemons[name].stop(signal.SIGTERM, 60)

    def close(self) -> None:
        """Kill every daemon."""
        for daemon in self.daemons.values():
            daemon.kill()

    # -- requests

    def make_key(self) -> None:
        """PRSS and a key: what decryptions need."""
        self.requester.prss_init()
        self.requester.keygen()
        self.until(lambda: self.auditor.look() and self.auditor.observer.active_keys, "a key")
        self._key_id = self.auditor.observer.active_keys[0]

    def calls(self, public: int = PUBLIC, user: int = USER) -> list[Call]:
        """Transactions that ask for so many decryptions."""
        while len(self._public) < public or len(self._user) < user:
            lot = self.requester.prepare(max(LOT, public), max(LOT * USER // PUBLIC, user), self._key_id)
            self._public += lot.public
            self._user += lot.user
        mine = Prepared(tuple(self._public[:public]), tuple(self._user[:user]))
        del self._public[:public], self._user[:user]
        return self.requester.calls(mine, burst=False)

    def ask(self, public: int = PUBLIC, user: int = USER) -> None:
        """Ask for so many decryptions now."""
        self.requester.send(self.calls(public, user))

    @contextmanager
    def load(self, rate: float, seconds: float) -> Iterator[threading.Event]:
        """Ask for `rate` decryptions a second inside the block, for at most `seconds`; the event ends it earlier."""
        wanted = int(rate * seconds)
        calls = self.calls(wanted * PUBLIC // (PUBLIC + USER), wanted * USER // (PUBLIC + USER))
        ending = threading.Event()
        thread = threading.Thread(target=self.requester.send, args=(calls, rate, ending), daemon=True)
        thread.start()
        try:
            yield ending
        finally:
            ending.set()
            thread.join(PATIENCE)

    def core(self, *faults: Mapping[str, Any]) -> None:
        """Set faults of the Core double (`kmsd.sandbox.core_double_faults`)."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.world.core_ready['control_port']}/faults",
            data=json.dumps(faults).encode(),
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def reorganise(self, depth: int, *, without_ours: bool = False) -> None:
        """Replace the newest blocks by others that hold the same transactions, all in the first of them.

        `without_ours`: but for those of kmsd's wallet, which the chain forgets.
        """
        chain = self.world.gateway
        with chain.mining_paused():
            head = chain.block_number()
            depth = min(depth, head)
            blocks = [chain.call("eth_getBlockByNumber", hex(head - n), True) for n in reversed(range(depth))]
            ours = self.world.deployment.parties[PARTY - 1].tx.text.lower() if without_ours else ""
            kept = [one["hash"] for block in blocks for one in block["transactions"] if one["from"].lower() != ours]
            raws = [chain.call("eth_getRawTransactionByHash", one) for one in kept]
            chain.call("anvil_reorg", depth, [[raw, 0] for raw in raws])
        self.auditor.forget()

    # -- waiting and judging

    def until(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
        """Wait for a condition; AssertionError with the daemons' last words when it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                words = "\n".join(f"{name}: {daemon.log_tail(1500)}" for name, daemon in self.daemons.items())
                raise AssertionError(f"not within {seconds:g} s: {what}\n{words}")
            time.sleep(POLL)

    def settle(self, group: str, fault: str, since: float, *, failures: int = 0) -> Findings:
        """Wait until everything is done, audit, and put the round into the table.

        `since` is when the fault ended (time.monotonic). `failures`: requests that may have failed in this round.
        """
        before = self._audited
        try:
            self.until(self.auditor.is_done, f"everything done after: {fault}")
        except AssertionError as late:
            raise AssertionError(f"{self.auditor.audit()}\n{late}") from None
        recovery = time.monotonic() - since
        found = self.auditor.audit()
        self._audited = found.events
        crash_table.record(group, fault, found.events - before, len(found.lost), len(found.doubled), recovery)
        print(f"{fault}: {found.events - before} events, {recovery:.1f} s, {found}", flush=True)
        assert found.clean, f"{fault}: {found}"
        self._may_fail += failures
        assert len(found.failed) <= self._may_fail, f"{fault}: {found}"
        return found


@contextmanager
def arena() -> Iterator[Arena]:
    """A world with a key and one daemon that runs."""
    plan = Plan(slow_ms=NEVER, core_latency_ms=60, settings={"key_management_polling": "500ms"})
    with World(plan) as world:
        ring = Arena(world)
        try:
            ring.start()
            ring.make_key()
            ring.requester.key_reshare(ring.auditor.observer.active_keys[0])
            ring.until(ring.auditor.is_done, "the ceremonies")
            found = ring.auditor.audit()
            assert found.clean, found
            assert not found.failed
            ring._audited = found.events
            yield ring
        finally:
            ring.close()


def cut_connections(arena: Arena, database: str = "connector") -> None:
    """pg_terminate_backend for every connection to kmsd's database."""
    arena.world.postgres.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    )
