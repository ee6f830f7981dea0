"""A Core double as its own process: `python -m kmsd.sandbox.core_double --port 0 …`.

Behaves as the Core v0.13.0-rc.1 of wire/kms-core.md 3.5, threshold or centralized, with real result shapes and real
EIP-712 signatures. Its first line of output, once it serves, is JSON: `endpoint`, `port`, `control_port`, `signer`,
`pid`. The clear value of a ciphertext stands in its first bytes (`kmsd.sandbox.ciphertexts.fake_ciphertext`), so every
double of a committee finds the same. Faults are set at run time on the control port (`core_double_faults`).

Pure asyncio on grpclib's HTTP/2 layer; trio_asyncio must not be imported here (it breaks asyncio's TLS servers).
"""

import argparse
import asyncio
import copy
import json
import os
import signal
import ssl
import sys
import urllib.parse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpclib.const import Status

from kmsd.sandbox.ciphertexts import fake_ciphertext
from kmsd.sandbox.core_double_behaviour import CoreDouble
from kmsd.sandbox.core_double_faults import SPOILERS, Fault, Faults, serve_control
from kmsd.sandbox.core_double_life import Settings
from kmsd.sandbox.core_double_requests import Decryption, Malformed
from kmsd.sandbox.core_double_results import Signer
from kmsd.sandbox.core_double_server import Answer, serve_grpc
from kmsd.sandbox.core_double_store import Entry, Refusal
from kmsd.wire.addresses import to_checksum

HUGE = 96 * 2**20
"""Bytes that the fault "huge" adds to a reply, in a field that nobody knows."""
HUGE_FIELD = b"\x7a\x80\x80\x80\x30"

__all__ = ["fake_ciphertext", "main"]


class Application:
    """The double with its faults and counters: bytes of a request in, answer out."""

    def __init__(self, core: CoreDouble) -> None:
        self.core = core
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.statuses: dict[str, Counter[str]] = {}
        self.open_calls = 0
        self.most_open_calls = 0

    async def answer(self, method: str, data: bytes) -> Answer:
        """Answer one call and count it."""
        self.calls[method] += 1
        self.open_calls += 1
        self.most_open_calls = max(self.most_open_calls, self.open_calls)
        try:
            answer = await self._answer(method, data)
        finally:
            self.open_calls -= 1
        self.statuses.setdefault(method, Counter())[answer[0].name] += 1
        return answer

    async def _answer(self, method: str, data: bytes) -> Answer:
        fault = self.faults.next(method)
        if fault is None:
            return await self._perform(method, data, None)
        if fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.burn is not None:
            self.core.burn(method, data)
            return fault.burn, "burnt", b""
        answer: Answer | None = None
        if fault.perform or (fault.status is None and not fault.hang):
            answer = await self._perform(method, data, fault.result)
        if fault.hang:
            await asyncio.Event().wait()
        if fault.status is not None:
            return fault.status, "fault", b""
        assert answer is not None
        return answer

    async def _perform(self, method: str, data: bytes, spoiler: str | None) -> Answer:
        handler = self.core.handlers.get(method)
        if handler is None:
            return Status.UNIMPLEMENTED, "no such method", b""
        try:
            reply = await handler(data)
        except Refusal as refusal:
            return refusal.status, str(refusal), b""
        except Malformed as error:
            return Status.INTERNAL, f"failed to decode Protobuf message: {error}", b""
        if spoiler == "garbage":
            return Status.OK, "", b"\xff\xff\xff"
        if spoiler == "huge":
            return Status.OK, "", bytes(reply.reply) + HUGE_FIELD + bytes(HUGE)
        if not isinstance(reply, Entry):
            return Status.OK, "", bytes(reply)
        return Status.OK, "", bytes(reply.reply if spoiler is None else self._spoilt(method, reply, spoiler))

    def _spoilt(self, method: str, entry: Entry, spoiler: str) -> Any:
        spoil, sign_again = SPOILERS[spoiler]
        signer = self.core.signer
        reply: Any
        sign: Callable[[Any, Decryption], None]
        if method == "GetPublicDecryptionResult":
            reply = signer.public_reply(entry.request)
            sign = signer.sign_public
        elif method == "GetUserDecryptionResult":
            reply = signer.user_reply(entry.request)
            sign = signer.sign_user
        else:
            reply = copy.deepcopy(entry.reply)
            spoil(reply)
            return reply
        if sign_again:
            spoil(reply)
            sign(reply, entry.request)
        else:
            sign(reply, entry.request)
            spoil(reply)
        return reply

    async def control(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The control port: `POST /faults`, `POST /settings`, `GET /stats`."""
        if (method, path) == ("POST", "/faults"):
            for item in body if isinstance(body, list) else [body]:
                self._set_fault(item)
            return 200, {"ok": True}
        if (method, path) == ("POST", "/settings"):
            settings = self.core.settings
            settings.latency = body.get("latency_ms", settings.latency * 1000) / 1000
            settings.jitter = body.get("jitter_ms", settings.jitter * 1000) / 1000
            settings.long_poll = body.get("long_poll", settings.long_poll)
            if "rate_tokens" in body:
                self.core.set_tokens(body["rate_tokens"])
            return 200, {"ok": True}
        if (method, path) == ("GET", "/stats"):
            return 200, {
                "calls": dict(self.calls),
                "statuses": {name: dict(counter) for name, counter in self.statuses.items()},
                "open_calls": self.open_calls,
                "most_open_calls": self.most_open_calls,
                "tokens_held": self.core.tokens_held,
                "live": self.core.live(),
                "keys": self.core.keys,
            }
        return 404, {"error": f"no {method} {path}"}

    def _set_fault(self, item: dict[str, Any]) -> None:
        if item.get("reset"):
            self.faults.reset()
        elif item.get("forget"):
            self.core.restart()
        elif item.get("fail_running"):
            self.core.fail_running()
        else:
            self.faults.set(Fault.parse(item))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kmsd.sandbox.core_double", description="A KMS Core double.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="gRPC port (0: a free one)")
    parser.add_argument("--control-port", type=int, default=0, help="port of the HTTP control (0: a free one)")
    parser.add_argument("--flavour", choices=("threshold", "centralized"), default="threshold")
    parser.add_argument("--party-id", type=int, default=1)
    parser.add_argument("--degree", type=int, default=1)
    parser.add_argument(
        "--signing-key",
        default=os.environ.get("KMSD_DOUBLE_SIGNING_KEY", "0x" + "11" * 32),
        help="hex; also KMSD_DOUBLE_SIGNING_KEY",
    )
    parser.add_argument("--key", action="append", default=[], help="id of a key that the Core holds (64 hex digits)")
    parser.add_argument("--state", type=Path, help="file with what survives a restart")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="time of a decryption")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="at most this much more, at random")
    parser.add_argument("--rate", type=float, default=0.0, help="at most this many decryptions a second (0: any)")
    parser.add_argument("--ceremony-ms", type=float, default=200.0, help="time of a preparation, keygen, CRS, reshare")
    parser.add_argument("--init-ms", type=float, default=100.0, help="time of the PRSS Init")
    parser.add_argument("--long-poll", type=float, default=60.0, help="seconds that a poll of a running one blocks")
    parser.add_argument("--rate-tokens", type=int, default=50_000)
    parser.add_argument("--dec-capacity", type=int, default=10_000)
    parser.add_argument("--min-dec-cache", type=int, default=6_000)
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started it")
    parser.add_argument("--tls-cert", type=Path, help="PEM chain; with --tls-key the port speaks TLS")
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--client-ca", type=Path, help="PEM; clients must show a certificate of it")
    return parser.parse_args(argv)


def _server_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    context.set_alpn_protocols(["h2"])
    if arguments.client_ca is not None:
        context.load_verify_locations(arguments.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    signer = Signer(
        bytes.fromhex(arguments.signing_key.removeprefix("0x")),
        party_id=arguments.party_id,
        degree=arguments.degree,
        centralized=arguments.flavour == "centralized",
    )
    settings = Settings(
        latency=arguments.latency_ms / 1000,
        jitter=arguments.jitter_ms / 1000,
        rate=arguments.rate,
        ceremony=arguments.ceremony_ms / 1000,
        init=arguments.init_ms / 1000,
        long_poll=arguments.long_poll,
        rate_tokens=arguments.rate_tokens,
        dec_capacity=arguments.dec_capacity,
        min_dec_cache=arguments.min_dec_cache,
    )
    keys = tuple(int(key, 16) for key in arguments.key)
    application = Application(CoreDouble(signer, settings, arguments.state, keys))
    loop = asyncio.get_running_loop()
    server = await serve_grpc(application.answer, arguments.host, arguments.port, _server_context(arguments))
    control = await serve_control(arguments.host, arguments.control_port, application.control)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else stop.set())
    port = server.sockets[0].getsockname()[1]
    scheme = "http" if arguments.tls_cert is None else "https"
    ready = {
        "endpoint": urllib.parse.urlunsplit((scheme, f"{arguments.host}:{port}", "", "", "")),
        "port": port,
        "control_port": control.sockets[0].getsockname()[1],
        "signer": to_checksum(signer.address),
        "flavour": arguments.flavour,
        "pid": os.getpid(),
    }
    print(json.dumps(ready), flush=True)
    await stop.wait()
    server.close()
    control.close()


def main(argv: list[str] | None = None) -> None:
    """Run the double."""
    try:
        asyncio.run(serve(_arguments(sys.argv[1:] if argv is None else argv)))
    except OSError as error:
        sys.exit(f"core double: {error}")


if __name__ == "__main__":
    main()
