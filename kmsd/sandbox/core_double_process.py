"""Starts Core doubles as processes of their own and speaks to their control ports; for tests and the sandbox (trio)."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

START_DEADLINE = 30.0
"""Seconds within which a double must say that it serves."""


@attrs.define
class RunningDouble:
    """A double that serves. `signer` is its address in EIP-55 form."""

    process: trio.Process
    endpoint: str
    port: int
    control_port: int
    signer: str

    async def fault(self, **fault: Any) -> None:
        """`POST /faults` with one fault (`kmsd.sandbox.core_double_faults`)."""
        await self._control("POST", "/faults", fault)

    async def settings(self, **settings: Any) -> None:
        """`POST /settings`."""
        await self._control("POST", "/settings", settings)

    async def stats(self) -> dict[str, Any]:
        """`GET /stats`."""
        answer: dict[str, Any] = await self._control("GET", "/stats", None)
        return answer

    def stop(self) -> None:
        """SIGSTOP: the process stands still, its sockets stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        await self.process.wait()

    async def _control(self, method: str, path: str, body: Any) -> Any:
        def ask() -> Any:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.control_port}{path}",
                data=None if body is None else json.dumps(body).encode(),
                method=method,
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)

        return await trio.to_thread.run_sync(ask)


@asynccontextmanager
async def running_double(*options: str) -> AsyncIterator[RunningDouble]:
    """A double with these command-line options; it is killed on leaving. Raises RuntimeError if it does not start."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "kmsd.sandbox.core_double", "--until-stdin-closes", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ),
    )
    try:
        assert process.stdout is not None
        line = b""
        with trio.move_on_after(START_DEADLINE):
            while not line.endswith(b"\n"):
                part = await process.stdout.receive_some(4096)
                if not part:
                    break
                line += part
        if not line.endswith(b"\n"):
            raise RuntimeError(f"the Core double did not start: {' '.join(options)}")
        ready = json.loads(line)
        yield RunningDouble(process, ready["endpoint"], ready["port"], ready["control_port"], ready["signer"])
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
