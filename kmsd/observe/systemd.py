"""Telling systemd how we are: `sd_notify(3)` over the socket that the unit gives (Type=notify, WatchdogSec=)."""

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("kmsd.systemd")


class Notifier:
    """Sends states to `NOTIFY_SOCKET`; does nothing without one. Never blocks, never raises."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        self._watchdog_usec = _own_watchdog(environment)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between signs of life that the unit asks for (half of WatchdogSec=); None when it asks for none."""
        return self._watchdog_usec / 2e6 if self._socket is not None and self._watchdog_usec else None

    def ready(self) -> None:
        """Start-up is complete."""
        self._send("READY=1")

    def stopping(self) -> None:
        """A clean stop has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def status(self, words: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + words.replace("\n", " "))

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError as error:
            log.debug("systemd was not told %s: %s", state.partition("=")[0], error)


def _own_watchdog(environment: Mapping[str, str]) -> int:
    """WATCHDOG_USEC if it is meant for this process, else 0."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) if text.isascii() and text.isdigit() else 0
