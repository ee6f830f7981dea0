"""A headless Chromium over its DevTools protocol: enough to open a page, look at it, and take its picture."""

import base64
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_websocket

STARTING = 60.0
"""Seconds for the browser to start; and for each answer."""
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Page:
    """One tab. `said` are messages of its console and policy violations, `asked` the URLs that it requested."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._arrived = trio.Event()
        self.said: list[str] = []
        self.asked: list[str] = []

    async def listen(self) -> None:
        """Take in answers and events until the tab is closed."""
        try:
            while True:
                message = json.loads(await self._socket.get_message())
                if "id" in message:
                    self._answers[message["id"]] = message
                else:
                    self._event(message["method"], message["params"])
                self._arrived.set()
                self._arrived = trio.Event()
        except trio_websocket.ConnectionClosed:
            return

    def _event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        number = next(self._numbers)
        await self._socket.send_message(json.dumps({"id": number, "method": method, "params": parameters}))
        with trio.fail_after(STARTING):
            while number not in self._answers:
                await self._arrived.wait()
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str, *, width: int = 1440, height: int = 1000, dark: bool = False) -> None:
        """Load `url` in a window of that size."""
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self.do(f"{domain}.enable")
        await self.look(width=width, height=height, dark=dark)
        await self.do("Page.navigate", url=url)
        await self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def look(self, *, width: int, height: int, dark: bool) -> None:
        """Take the form of a screen: its size in CSS pixels (narrow: a phone), light or dark."""
        phone = width < 600
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1.5 if not phone else 2,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[scheme])

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 30.0) -> Any:
        """Wait until an expression is true in the page; its value."""
        found = None
        with trio.move_on_after(seconds):
            while not (found := await self.value(expression)):  # noqa: ASYNC110 - the page is another process
                await trio.sleep(0.1)
        assert found, f"not within {seconds:g} s: {expression}; the page said {self.said}"
        return found

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page, PNG or WebP as the name of `path` ends."""
        form = {"format": "webp", "quality": 85} if path.suffix == ".webp" else {"format": "png"}
        taken = await self.do("Page.captureScreenshot", captureBeyondViewport=whole, **form)
        await trio.Path(path).write_bytes(base64.b64decode(taken["data"]))


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """A tab of a browser of its own, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="kmsd-chromium-") as profile:
        process = await trio.lowlevel.open_process(
            ["chromium", *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            port = await _port(process.stderr)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, process.stderr)
                async with trio_websocket.open_websocket_url(await _first_tab(port), max_message_size=2**26) as socket:
                    made = Page(socket)
                    nursery.start_soon(made.listen)
                    yield made
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()


async def _port(stderr: trio.abc.ReceiveStream) -> int:
    said = bytearray()
    with trio.fail_after(STARTING):
        while not (match := re.search(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/", said)):
            chunk = await stderr.receive_some(4096)
            assert chunk, said.decode()
            said += chunk
    return int(match[1])


async def _drain(stderr: trio.abc.ReceiveStream) -> None:
    async for _ in stderr:
        pass


async def _first_tab(port: int) -> str:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        answer = bytearray()
        while b'"webSocketDebuggerUrl"' not in answer or not answer.rstrip().endswith(b"]"):
            chunk = await stream.receive_some(65536)
            assert chunk, answer.decode()
            answer += chunk
    tabs = json.loads(answer.partition(b"\r\n\r\n")[2])
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
