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
from collections import OrderedDict, deque
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

RESEND_SECONDS = 2.0
"""An answer that the node still does not know after so long is sent again."""

CHECK_SECONDS = 0.5
ANSWERS_A_BATCH = 200
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
    """One party: what it is about to answer, and what it has sent and is not mined yet.

    `delay` is the time in seconds from seeing a decryption to answering it; ceremonies are answered at once.
    """

    def __init__(self, party: ScriptedParty, chain_id: int, rpc: RpcClient, delay: float) -> None:
        self.party = party
        self._delay = delay
        self._ready: list[Any] = []
        self._later: deque[tuple[float, Any]] = deque()
        self._rpc = rpc
        self._sender = RawSender(party.party.tx, chain_id, rpc, batch=200)
        self._pending: list[Sent] = []

    def hear(self, requests: Iterable[Any]) -> None:
        """Takes note of the requests' records."""
        due = time.monotonic() + self._delay
        for request in requests:
            if self._delay and isinstance(request, (events.PublicDecryptionRequest, events.UserDecryptionRequest)):
                self._later.append((due, request))
            else:
                self._ready.append(request)

    def answer(self) -> None:
        """Answers what is due, in batches of bounded size."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._ready.append(self._later.popleft()[1])
        while self._ready:
            batch, self._ready = self._ready[:ANSWERS_A_BATCH], self._ready[ANSWERS_A_BATCH:]
            self._send([call for call in map(self.party.answer, batch) if call is not None])

    def check(self) -> None:
        """Forgets what is mined, and sends again what the node has lost; what only waits in its pool is left there."""
        if not self._pending:
            return
        mined, known = (self._nonce_at(tag) for tag in ("latest", "pending"))
        self._pending = [sent for sent in self._pending if sent.nonce >= mined]
        lost = [sent for sent in self._pending if sent.nonce >= known]
        if lost and time.monotonic() - lost[0].sent_at > RESEND_SECONDS:
            self._pending = [sent for sent in self._pending if sent.nonce < known]
            self._sender.forget_nonce()
            self._send([sent.call for sent in lost])

    def _nonce_at(self, tag: str) -> int:
        return int(self._rpc.call("eth_getTransactionCount", self.party.party.tx.text, tag), 16)

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


def serve(members: Sequence[Member], watcher: Watcher, interval: float, stop: threading.Event) -> None:
    """Answers until `stop` is set. A chain that does not answer is asked again."""
    checked = 0.0
    while not stop.wait(interval):
        try:
            requests = [events.decode(log) for log in watcher.new_requests()]
            for member in members:
                member.hear(requests)
            for member in members:
                member.answer()
            if time.monotonic() - checked > CHECK_SECONDS:
                checked = time.monotonic()
                for member in members:
                    member.check()
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
    parser.add_argument("--delay-ms", type=float, default=0, help="from seeing a decryption to answering it")
    parser.add_argument("--slow-party", type=int, help="number of a party that answers decryptions later")
    parser.add_argument("--slow-ms", type=float, default=60_000, help="its delay")
    options = parser.parse_args(arguments)

    deployment = Deployment.from_json(options.deployment.read_text())
    numbers = [int(word) for word in options.parties.split(",")]
    rpc = RpcClient(options.port)
    chain_id = deployment.gateway_chain_id
    delays = dict.fromkeys(numbers, options.delay_ms / 1000)
    if options.slow_party is not None:
        delays[options.slow_party] = options.slow_ms / 1000
    members = [Member(ScriptedParty(deployment, number), chain_id, rpc, delays[number]) for number in numbers]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(json.dumps({"pid": os.getpid(), "parties": numbers}), flush=True)
    serve(members, Watcher(rpc, deployment, options.from_block), options.interval_ms / 1000, stop)


if __name__ == "__main__":
    main()
