"""The other parties of a sandbox's committee as one process: `python -m kmsd.sandbox.committee --help`.

They watch the Gateway chain and answer every request, each with its own keys, with the values that the Core doubles
give too. Answers go out in batches, with nonces of their own; what a reorganisation or a full pool swallowed is sent
again. Prints one line of JSON when it serves: `{"pid": n, "parties": [...]}`. Ends on SIGTERM.
"""

import argparse
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from kmsd.sandbox.accounts import Call, RawSender
from kmsd.sandbox.answers import ScriptedParty
from kmsd.sandbox.contracts import Deployment
from kmsd.sandbox.logs import ChainLog, get_logs
from kmsd.sandbox.rpc import RpcClient, RpcError
from kmsd.wire.v0_11 import events

BLOCKS_PER_SCAN = 500
REORGANISATION_DEPTH = 64
"""Blocks that are read again when the chain no longer has the block that was read last."""

RESEND_SECONDS = 10.0
"""An answer that is not mined after so long is sent again."""

CHECK_SECONDS = 0.5
REMEMBERED = 200_000
"""Answered requests that are remembered, so that none is answered twice."""


NEVER_MINED = 2**62
"""The nonce of answers that the node refused: all of them are sent again later."""


@attrs.frozen
class Sent:
    """An answer on its way, with the nonce that it has."""

    call: Call
    nonce: int
    sent_at: float


class Watcher:
    """Reads the requests from the chain, in order, each once; notices reorganisations."""

    def __init__(self, rpc: RpcClient, deployment: Deployment, first_block: int) -> None:
        self._rpc = rpc
        self._addresses = (deployment.decryption, deployment.kms_generation)
        self._topics = [event.topic for event in events.REQUEST_EVENTS]
        self._next = first_block
        self._last_hash: str | None = None
        self._seen: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    def new_requests(self) -> list[ChainLog]:
        """The logs of requests since the last call, up to the head."""
        head = int(self._rpc.call("eth_blockNumber"), 16)
        if self._last_hash is not None and self._hash(self._next - 1) != self._last_hash:
            self._next = max(0, min(self._next, head + 1) - REORGANISATION_DEPTH)
            self._seen.clear()
        if head < self._next:
            return []
        last = min(head, self._next + BLOCKS_PER_SCAN - 1)
        last_hash = self._hash(last)
        logs = get_logs(self._rpc, self._addresses, self._next, last, self._topics)
        self._next, self._last_hash = last + 1, last_hash
        return [log for log in logs if self._is_new(log)]

    def _is_new(self, log: ChainLog) -> bool:
        key = (log.transaction_hash, log.log_index)
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _hash(self, number: int) -> str | None:
        block = self._rpc.call("eth_getBlockByNumber", hex(number), False)
        return None if block is None else str(block["hash"])


class Member:
    """One party: what it has sent and is not mined yet."""

    def __init__(self, party: ScriptedParty, chain_id: int, rpc: RpcClient) -> None:
        self.party = party
        self._rpc = rpc
        self._sender = RawSender(party.party.tx, chain_id, rpc, batch=200)
        self._pending: list[Sent] = []

    def answer(self, requests: Iterable[Any]) -> None:
        """Answers the requests' records."""
        self._send([call for call in map(self.party.answer, requests) if call is not None])

    def check(self) -> None:
        """Forgets what is mined, and sends again what has not been for long."""
        if not self._pending:
            return
        mined = int(self._rpc.call("eth_getTransactionCount", self.party.party.tx.text, "latest"), 16)
        self._pending = [sent for sent in self._pending if sent.nonce >= mined]
        now = time.monotonic()
        if self._pending and now - self._pending[0].sent_at > RESEND_SECONDS:
            late, self._pending = self._pending, []
            self._sender.forget_nonce()
            self._send([sent.call for sent in late])

    def _send(self, calls: Sequence[Call]) -> None:
        if not calls:
            return
        first = self._sender.nonce
        try:
            self._sender.submit(calls)
        except RpcError as error:
            print(f"{self.party.party.tx.text}: {error}", file=sys.stderr, flush=True)
            first = NEVER_MINED
        now = time.monotonic()
        self._pending += [Sent(call, first + number, now) for number, call in enumerate(calls)]


def serve(members: Sequence[Member], watcher: Watcher, interval: float, delay: float, stop: threading.Event) -> None:
    """Answers until `stop` is set. A chain that does not answer is asked again."""
    due: list[tuple[float, Any]] = []
    checked = 0.0
    while not stop.wait(interval):
        try:
            now = time.monotonic()
            due += [(now + delay, events.decode(log)) for log in watcher.new_requests()]
            ready = [request for at, request in due if at <= now]
            due = [(at, request) for at, request in due if at > now]
            for member in members:
                if ready:
                    member.answer(ready)
                if now - checked > CHECK_SECONDS:
                    member.check()
            if now - checked > CHECK_SECONDS:
                checked = now
        except (OSError, http.client.HTTPException, RpcError) as error:
            print(f"the Gateway chain: {error!r}", file=sys.stderr, flush=True)
            stop.wait(0.2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kmsd.sandbox.committee", description=__doc__.splitlines()[0])
    parser.add_argument("--deployment", type=Path, required=True, help="file with the deployment (Deployment.to_json)")
    parser.add_argument("--port", type=int, required=True, help="of the Gateway chain's node on 127.0.0.1")
    parser.add_argument("--parties", default="2,3,4", help="numbers of the parties that answer, 1 is the first")
    parser.add_argument("--from-block", type=int, default=0)
    parser.add_argument("--interval-ms", type=float, default=50, help="between looks at the chain")
    parser.add_argument("--delay-ms", type=float, default=0, help="from seeing a request to answering it")
    options = parser.parse_args(arguments)

    deployment = Deployment.from_json(options.deployment.read_text())
    numbers = [int(word) for word in options.parties.split(",")]
    rpc = RpcClient(options.port)
    members = [Member(ScriptedParty(deployment, number), deployment.gateway_chain_id, rpc) for number in numbers]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(json.dumps({"pid": os.getpid(), "parties": numbers}), flush=True)
    serve(
        members,
        Watcher(rpc, deployment, options.from_block),
        options.interval_ms / 1000,
        options.delay_ms / 1000,
        stop,
    )


if __name__ == "__main__":
    main()
