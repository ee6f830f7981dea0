"""The monitoring endpoint, the watchdog and the event loop's pulse: one sibling that asks nobody (guarantee PR3).

/liveness   200 while the event loop runs: use it for liveness probes and watchdogs
/healthz    200 or 503 from what background checks last saw: use it for readiness and alarms
/metrics    Prometheus text            /version   name, version, build            /status   all of it as JSON
/           the status page, which asks /overview
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from kmsd import version
from kmsd.config import Settings
from kmsd.observe import logs, overview, page, status
from kmsd.observe.board import Board
from kmsd.observe.health import Health
from kmsd.observe.health_checks import CHECKS, View, evaluate
from kmsd.observe.history import STEP, History
from kmsd.observe.http import Answer, CannotListen, HttpServer, json_answer, listen
from kmsd.observe.metrics import CONTENT_TYPE, Metrics
from kmsd.observe.process import Process, resident_bytes, started_at
from kmsd.observe.systemd import Notifier
from kmsd.supervise import Fatal

log = logging.getLogger("kmsd.monitoring")

PULSE = 0.25
"""Seconds between measurements of the event loop's lag."""
STATUS_INTERVAL = 10.0
"""Seconds between lines for `systemctl status`."""
HOST_FAMILIES = ("kms_connector_rpc_requests", "kms_connector_rpc_errors", "kms_connector_rpc_seconds")
"""Families of nodes that host chains have too, under their chain id."""
LIVENESS = '{"status_code":"200","status":"alive"}'
"""The reference's body."""


def label_values(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Values of labels that the configuration knows."""
    hosts = tuple(str(chain.chain_id) for chain in settings.host_chains)
    return {
        "node": tuple(node.name for node in settings.gateway_nodes),
        "chain": hosts,
        "core": tuple(entry.split("|")[0].strip() for entry in settings.kms_core_endpoints),
        "dependency": expected_dependencies(settings),
    }


def expected_dependencies(settings: Settings) -> tuple[str, ...]:
    """Dependencies that this daemon will ask, by the names under which they are reported."""
    names = ["database", *(f"gateway node {node.name}" for node in settings.gateway_nodes)]
    if "worker" in settings.roles:
        names += [f"host chain {chain.chain_id}" for chain in settings.host_chains]
        names += [f"core {entry.split('|')[0].strip()}" for entry in settings.kms_core_endpoints]
    return tuple(names)


class Monitoring:
    """Serves the endpoint and feeds systemd; made before anything that can be down.

    Without `required` an address that is taken is only a warning: `kmsd --once` beside a running daemon.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        health: Health,
        environment: Mapping[str, str] = os.environ,
        *,
        board: Board | None = None,
        required: bool = True,
    ) -> None:
        self._settings = settings
        self._board = board or Board()
        self._history = History(metrics, health)
        self._required = required
        self._metrics = metrics
        self._health = health
        self._view = View(health, metrics, settings.roles)
        self._notifier = Notifier(environment)
        self._started = started_at()
        self._lags = [0.0, 0.0]
        self.address: tuple[str, int] | None = None
        version.build()  # asks git once, before anything is timed
        self.server = HttpServer(
            {
                "/metrics": lambda: Answer(200, CONTENT_TYPE, self._metrics.text()),
                "/healthz": self._healthz,
                "/liveness": lambda: json_answer(LIVENESS),
                "/version": lambda: json_answer(json.dumps(self._version())),
                "/status": lambda: json_answer(json.dumps(self.document())),
                "/overview": lambda: json_answer(json.dumps(self._overview())),
                "/": lambda: Answer(200, "text/html; charset=utf-8", page.HTML, page.HEADERS),
            }
        )
        Process(metrics, version.VERSION)
        metrics.declare(label_values(settings))
        hosts = tuple(str(chain.chain_id) for chain in settings.host_chains)
        metrics.declare({"node": hosts}, HOST_FAMILIES)
        for name in expected_dependencies(settings):
            health.expect(name)
        for check in CHECKS:
            metrics.set("kms_connector_check_failing", 0.0, check.name, check.severity.value)
        metrics.on_read(self._export_health)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once the address is bound. Raises Fatal when it cannot be."""
        groups = await self._listen()
        async with trio.open_nursery() as nursery:
            for listeners in groups:
                nursery.start_soon(self.server.serve, listeners)
            nursery.start_soon(self._pulse)
            nursery.start_soon(self._remember)
            nursery.start_soon(self._tell_systemd)
            task_status.started()

    async def _listen(self) -> Sequence[Sequence[trio.SocketListener]]:
        """The listeners to serve, one group; none when they are not required and cannot be had."""
        try:
            listeners = await listen(self._settings.monitoring_endpoint)
        except CannotListen as error:
            if self._required:
                raise Fatal(str(error)) from None
            log.warning("%s; going on without", error)
            return []
        host, port = listeners[0].socket.getsockname()[:2]
        self.address = (host, port)
        log.info("monitoring endpoint on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        return [listeners]

    def ready(self) -> None:
        """Start-up is complete: whatever was down, the daemon serves what it can."""
        self._notifier.ready()

    def stopping(self) -> None:
        """A clean stop has begun."""
        self._notifier.stopping()

    def stopped(self) -> None:
        """Nothing more will be told."""
        self._notifier.close()

    def document(self) -> dict[str, Any]:
        """Everything known, for `kmsd status`."""
        return {**self._identity(), "healthz": status.healthz(self._view), "metrics": status.gauges(self._view)}

    def _overview(self) -> dict[str, Any]:
        """What the status page shows."""
        return {**self._identity(), **overview.document(self._view, self._board, self._history)}

    def _identity(self) -> dict[str, Any]:
        return {
            **self._version(),
            "instance_name": self._settings.instance_name,
            "roles": list(self._settings.roles),
            "pid": os.getpid(),
            "uptime_seconds": round(self._health.now() - self._started, 1),
            "resident_bytes": resident_bytes(),
            "gateway_chain_id": self._settings.gateway_chain_id,
        }

    def _version(self) -> dict[str, str]:
        return {"name": self._settings.service_name, "version": version.VERSION, "build": version.build()}

    def _healthz(self) -> Answer:
        document = status.healthz(self._view)
        return json_answer(json.dumps(document), 200 if document["healthy"] else 503)

    def _export_health(self) -> None:
        """Dependencies and checks as gauges."""
        metrics = self._metrics
        for name, known in self._health.dependencies.items():
            metrics.set("kms_connector_dependency_up", -1.0 if known.up is None else float(known.up), name)
            metrics.set("kms_connector_dependency_last_success_timestamp_seconds", known.last_ok or 0.0, name)
            metrics.total("kms_connector_dependency_faults", float(known.faults), name)
        metrics.total("kms_connector_log_lines_suppressed", float(logs.suppressed_lines()))
        metrics.set("kms_connector_alerts", float(len(self._health.alerts)))
        metrics.set("kms_connector_event_loop_lag_seconds", max(self._lags))
        failing = {finding.check.name for finding in evaluate(self._view)}
        for check in CHECKS:
            metrics.set("kms_connector_check_failing", float(check.name in failing), check.name, check.severity.value)

    async def _pulse(self) -> None:
        """Measure how late the loop is; the worst of this second and of the one before are kept."""
        while True:
            self._lags = [self._lags[1], 0.0]
            for _ in range(round(1.0 / PULSE)):
                due = trio.current_time() + PULSE
                await trio.sleep_until(due)
                self._lags[1] = max(self._lags[1], trio.current_time() - due)

    async def _remember(self) -> None:
        """Samples for the plots."""
        while True:
            await trio.sleep(STEP)
            self._history.sample()

    async def _tell_systemd(self) -> None:
        """Feed the watchdog while the event loop runs and no loop of a sibling is stuck.

        Waiting for a dependency is being alive (decisions.md 27).
        """
        interval = self._notifier.watchdog_interval
        said = -STATUS_INTERVAL
        while True:
            if interval is not None and not self._health.heartbeats.silent():
                self._notifier.alive()
            if trio.current_time() - said >= STATUS_INTERVAL:
                said = trio.current_time()
                findings = evaluate(self._view)
                self._notifier.status(
                    f"failing: {', '.join(f.check.name for f in findings)}" if findings else "healthy"
                )
            await trio.sleep(min(interval or STATUS_INTERVAL, STATUS_INTERVAL))
