"""The coprocessors' buckets as an HTTP server of their own: `python -m kmsd.sandbox.buckets --help`.

`GET /{bucket}/{key}` serves an object with its `x-amz-meta-Ct-Format` header; any bucket name will do. Control, on the
same port:

- `PUT /{bucket}/{key}`: holds the body, in that bucket (header `x-amz-meta-Ct-Format` as given). `DELETE` forgets it.
- `POST /_objects`: a list of `{"handle": hex, "value": n, "size": bytes?, "digest": hex?, "bucket": name?,
  "format": word?}`; makes fake ciphertexts (`kmsd.sandbox.ciphertexts`) and answers with the list of their digests in
  hex. Nothing but the recipe is kept. With a "digest" the object stands under that key whatever its body is; without a
  "bucket" every bucket serves it.
- `POST /_faults`: `{"bucket": name or null for every bucket, "faults": [...]}` replaces the bucket's faults
  (`kmsd.sandbox.bucket_faults`); the first that hits decides.
- `GET /_stats`: what was asked and answered.

Prints one line of JSON when it serves: `{"port": n, "tls_port": n or null, "pid": n}`. Ends on SIGTERM.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import attrs

from kmsd.sandbox.bucket_faults import BEHAVIOURS, Fault, Reply, format_header
from kmsd.sandbox.bucket_objects import DEFAULT_FORMAT, EVERY_BUCKET, Kept, Made, Objects

MAX_HEAD_BYTES = 65536
MAX_BODY_BYTES = 256 << 20
_SEND_BUFFER_BYTES = 1 << 20
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@attrs.define
class BucketStats:
    """Counts of one bucket since the start: GETs, bytes of healthy bodies, answers by status, faults by kind.

    `stuck` is how many GETs are under a fault at this moment.
    """

    gets: int = 0
    body_bytes: int = 0
    statuses: Counter[int] = attrs.field(factory=Counter)
    faults: Counter[str] = attrs.field(factory=Counter)
    stuck: int = 0


@attrs.define
class BucketServer:
    """All buckets: objects, faults and counts, shared by the connections."""

    objects: Objects
    faults: dict[str, list[Fault]] = attrs.field(factory=dict)
    uses: Counter[int] = attrs.field(factory=Counter)
    buckets: dict[str, BucketStats] = attrs.field(factory=dict)
    connections: int = 0
    connections_total: int = 0

    def stats_of(self, bucket: str) -> BucketStats:
        """The counts of a bucket."""
        found = self.buckets.get(bucket)
        if found is None:
            found = self.buckets[bucket] = BucketStats()
        return found

    def fault_for(self, bucket: str, key: str) -> Fault | None:
        """The fault that a GET meets; one use of it is spent."""
        if not self.faults:
            return None
        for place in (bucket, EVERY_BUCKET):
            for fault in self.faults.get(place, ()):
                if fault.hits(key) and (fault.times is None or self.uses[id(fault)] < fault.times):
                    self.uses[id(fault)] += 1
                    return fault
        return None

    async def control(self, method: str, path: str, body: bytes) -> Any:
        """The JSON answer of a control request. Raises ValueError, KeyError and TypeError for a bad one."""
        match method, path:
            case "GET", "/_stats":
                return self._stats()
            case "POST", "/_objects":
                return await asyncio.to_thread(self._add, json.loads(body))
            case "POST", "/_faults":
                return self._set_faults(json.loads(body))
        raise KeyError(f"{method} {path} is not served")

    def _add(self, recipes: list[dict[str, Any]]) -> list[str]:
        return [
            self.objects.add(
                one.get("bucket") or EVERY_BUCKET,
                _key(one["digest"]) if one.get("digest") else None,
                Made(
                    bytes.fromhex(one["handle"].removeprefix("0x")),
                    int(one["value"]),
                    one.get("size"),
                    one.get("format", DEFAULT_FORMAT),
                ),
            )
            for one in recipes
        ]

    def _set_faults(self, change: dict[str, Any]) -> dict[str, Any]:
        faults = [Fault(**one) for one in change["faults"]]
        place = change.get("bucket") or EVERY_BUCKET
        for old in self.faults.pop(place, ()):
            self.uses.pop(id(old), None)
        if faults:
            self.faults[place] = faults
        return {"faults": len(faults)}

    def _stats(self) -> dict[str, Any]:
        return {
            "buckets": {name: attrs.asdict(stats) for name, stats in self.buckets.items()},
            "connections": self.connections,
            "connections_total": self.connections_total,
            "objects": len(self.objects),
            "cached_bytes": self.objects.cached_bytes,
        }


class Connection(asyncio.Protocol):
    """One connection: its requests are answered one after the other."""

    def __init__(self, server: BucketServer) -> None:
        self._server = server
        self._input = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._keep = True
        self._stats: BucketStats | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._server.connections += 1
        self._server.connections_total += 1

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._server.connections -= 1
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Called by asyncio: the peer does not take what we send."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._input += data
        if self._task is None:
            self._advance()
        elif len(self._input) > MAX_HEAD_BYTES:
            self._transport.pause_reading()

    def _advance(self) -> None:
        """Answers what has arrived, until something must be waited for."""
        while self._task is None and not self._transport.is_closing():
            end = self._input.find(b"\r\n\r\n")
            if end < 0:
                if len(self._input) > MAX_HEAD_BYTES:
                    self._refuse(431)
                return
            method, path, headers = _parse(bytes(self._input[:end]))
            size = headers.get("content-length", "0")
            if not size.isdecimal() or int(size) > MAX_BODY_BYTES or "transfer-encoding" in headers:
                self._refuse(400)
                return
            if headers.get("expect", "").lower() == "100-continue" and len(self._input) == end + 4:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if len(self._input) < end + 4 + int(size):
                return
            body = bytes(self._input[end + 4 : end + 4 + int(size)])
            del self._input[: end + 4 + int(size)]
            self._keep = headers.get("connection", "").lower() != "close"
            self._answer(method, path.partition("?")[0], headers, body)

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        bucket, _, key = path.removeprefix("/").partition("/")
        if bucket.startswith("_"):
            self._start(lambda: self._control(method, path, body))
        elif method in ("GET", "HEAD") and key:
            self._get(bucket, _key(key), method == "GET")
        elif method == "PUT" and key:
            self._server.objects.add(bucket, _key(key), Kept(body, headers.get("x-amz-meta-ct-format")))
            self._whole(200, b"")
        elif method == "DELETE" and key:
            self._whole(204 if self._server.objects.remove(bucket, _key(key)) else 404, b"")
        else:
            self._whole(405, b"")

    def _get(self, bucket: str, key: str, with_body: bool) -> None:
        stats = self._stats = self._server.stats_of(bucket)
        stats.gets += 1
        thing = self._server.objects.find(bucket, key)
        fault = self._server.fault_for(bucket, key)
        body = b"" if thing is None else self._server.objects.body(thing)
        if fault is not None:
            reply = Reply(body, DEFAULT_FORMAT if thing is None else thing.format)
            stats.faults[fault.kind] += 1
            self._start(lambda: self._under(fault, reply, stats))
        elif thing is None:
            self._whole(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            stats.body_bytes += len(body)
            self._whole(200, body, format_header(thing.format), with_body)

    async def _under(self, fault: Fault, reply: Reply, stats: BucketStats) -> None:
        stats.stuck += 1
        try:
            await BEHAVIOURS[fault.kind](self, fault, reply)
        finally:
            stats.stuck -= 1
            self._stats = None

    async def _control(self, method: str, path: str, body: bytes) -> None:
        status = 200
        try:
            answer = await self._server.control(method, path, body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            status, answer = 400, {"error": str(error)}
        self._whole(status, json.dumps(answer).encode(), {"content-type": "application/json"})

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Lets something that waits answer; later requests of the connection wait for it."""

        async def run() -> None:
            await work()
            self._task = None
            if not self._keep:
                self._transport.close()
            self._transport.resume_reading()
            self._advance()

        self._task = asyncio.get_running_loop().create_task(run())

    def _whole(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, with_body: bool = True
    ) -> None:
        self.head(status, len(body), headers or {})
        if with_body and body:
            self._transport.write(body)
        if self._task is None:
            if not self._keep:
                self._transport.close()
            elif not self._writable.is_set():
                self._start(self._writable_again)
        self._stats = None

    async def _writable_again(self) -> None:
        await self._writable.wait()

    def _refuse(self, status: int) -> None:
        self._whole(status, b"")
        self._transport.close()

    def head(self, status: int, size: int | None, headers: Mapping[str, str]) -> None:
        """Sends the status line and headers; a `size` of None announces a chunked body."""
        if self._stats is not None:
            self._stats.statuses[status] += 1
        length = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        ending = "" if self._keep else "connection: close\r\n"
        line = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{length}\r\n{fields}{ending}\r\n"
        self._transport.write(line.encode("latin-1"))

    async def write(self, data: bytes) -> None:
        """Sends bytes and waits while the peer takes none."""
        self._transport.write(data)
        await self._writable.wait()

    def reset(self) -> None:
        """Cuts the connection with RST."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close(self) -> None:
        """Ends the connection after what was written."""
        self._transport.close()


def _parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers (names in lower case) of a request's head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return method, rest.partition(" ")[0], headers


def _key(key: str) -> str:
    """The key under which an object stands: digests may be written with 0x and in capitals."""
    bare = key.lower().removeprefix("0x")
    return bare if len(bare) == 64 and all(c in "0123456789abcdef" for c in bare) else key


async def serve(options: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = BucketServer(Objects(options.cache_mib << 20))
    plain = await loop.create_server(lambda: Connection(server), "127.0.0.1", options.port, backlog=4096)
    ready: dict[str, int | None] = {"port": plain.sockets[0].getsockname()[1], "tls_port": None, "pid": os.getpid()}
    if options.cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.cert, options.key)
        tls = await loop.create_server(
            lambda: Connection(server), "127.0.0.1", options.tls_port, ssl=context, backlog=4096
        )
        ready["tls_port"] = tls.sockets[0].getsockname()[1]
    print(json.dumps(ready), flush=True)
    await ended.wait()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m kmsd.sandbox.buckets", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--cert", help="PEM file of a certificate: serve HTTPS too, on a port of its own")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    parser.add_argument("--tls-port", type=int, default=0, help="TCP port of HTTPS (default: a free one)")
    parser.add_argument("--cache-mib", type=int, default=128, help="MiB of generated bodies kept (default: 128)")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
