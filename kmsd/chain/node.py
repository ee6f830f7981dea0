"""One node of a chain over HTTP, with its backup URLs, batches, and its heads over WebSocket (port `Node`).

A node is what an operator calls by one name: its URLs are tried in order of health, and whatever goes wrong with the
last of them is one `DependencyDown` that names the node and the endpoint, never more of a URL than scheme, host, port.
"""

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

import attrs
import trio

from kmsd.chain import jsonrpc
from kmsd.chain.http import HttpEndpoint, HttpFault, Post, Reply
from kmsd.chain.jsonrpc import BadAnswer, BatchRefused
from kmsd.chain.subscription import subscribe_heads
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import DependencyDown, Head, RpcAnswer, RpcCall, RpcError
from kmsd.redact import endpoint as shown

log = logging.getLogger("kmsd.chain.node")

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds that an endpoint stands behind the others after its first fault, doubling with each."""
MAX_BATCH = 1000
"""Calls of one batch: geth's own limit."""
IN_ORDER = 8
"""An unbatched batch of up to so many calls is asked one call after the other: its caller may rely on the order."""
SINGLE_CALLS = 8
"""Single calls under way at once to an endpoint that takes no batches."""

RATE_LIMITED = -32005
"""Code of "limit exceeded" (EIP-1474); as the answer to a whole batch it means: later, not: smaller."""

_CHAIN_ID = RpcCall("eth_chainId", ())


class WrongChain(Exception):
    """An endpoint belongs to another chain than the configuration says."""

    def __init__(self, actual: int, expected: int) -> None:
        super().__init__(
            f"is on chain {actual}, but the configuration says {expected}: correct the URL or the chain id"
        )


@attrs.define
class _Endpoint:
    """One URL of the node and what experience says of it. `max_batch` shrinks when the endpoint refuses batches."""

    name: str
    http: HttpEndpoint
    faults: int = 0
    paused_until: float = -math.inf
    max_batch: int = MAX_BATCH

    def answered(self) -> None:
        self.faults = 0
        self.paused_until = -math.inf

    def failed(self) -> None:
        self.faults += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.faults - 1, 10))
        self.paused_until = trio.current_time() + pause
        self.max_batch = MAX_BATCH


class HttpNode:
    """A node as configured: `urls` (the first is the main one, the others its backups) and perhaps `ws_url`.

    `dependency` is the name under which it is reported; by default "gateway node NAME". Constructing it connects to
    nothing; raises ValueError for an unusable URL.
    """

    def __init__(
        self,
        name: str,
        chain_id: int,
        urls: Sequence[str],
        ws_url: str | None,
        health: Health,
        metrics: Metrics,
        *,
        dependency: str | None = None,
    ) -> None:
        self._name = name
        self._chain_id = chain_id
        self._ws_url = ws_url
        self._health = health
        self._metrics = metrics
        self.dependency = dependency or f"gateway node {name}"
        self._endpoints = [_Endpoint(shown(url), HttpEndpoint(url, greet=self._check_chain)) for url in urls]
        if not self._endpoints:
            raise ValueError(f"{self.dependency} has no URL")
        health.expect(self.dependency)

    @property
    def name(self) -> str:
        """The configured name."""
        return self._name

    @property
    def chain_id(self) -> int:
        """The configured chain id."""
        return self._chain_id

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        """Answers to `calls` in their order, from one endpoint within `deadline` seconds; else DependencyDown.

        A batch beyond what the endpoint takes is asked in parts, down to single calls.
        """
        if not calls:
            return ()
        end = trio.current_time() + deadline
        order = self._by_health()
        words: list[str] = []
        for left, endpoint in zip(range(len(order), 0, -1), order, strict=True):
            started = trio.current_time()
            share = (end - started) / left
            try:
                with trio.fail_after(max(0.0, share)):
                    answers = await self._ask(endpoint, calls)
            except (HttpFault, BadAnswer, WrongChain) as fault:
                words.append(self._fault(endpoint, str(fault)))
            except trio.TooSlowError:
                words.append(self._fault(endpoint, f"no answer within {share:.1f} s"))
            else:
                endpoint.answered()
                self._health.ok(self.dependency)
                self._count(calls, trio.current_time() - started)
                return answers
        detail = "; ".join(words)
        self._health.fault(self.dependency, detail)
        raise DependencyDown(self.dependency, detail)

    def heads(self) -> AbstractAsyncContextManager[AsyncIterator[Head]] | None:
        """A `newHeads` subscription; None without `ws_url`. Entering it raises DependencyDown."""
        if self._ws_url is None:
            return None
        return subscribe_heads(self._ws_url, self._chain_id, self.dependency)

    async def close(self) -> None:
        """Close kept connections."""
        for endpoint in self._endpoints:
            await endpoint.http.close()

    def _by_health(self) -> list[_Endpoint]:
        """Endpoints not in a pause in configured order, then those whose pause ends first."""
        now = trio.current_time()
        return sorted(self._endpoints, key=lambda e: e.paused_until if e.paused_until > now else -math.inf)

    def _fault(self, endpoint: _Endpoint, words: str) -> str:
        endpoint.failed()
        self._metrics.inc("kms_connector_rpc_errors", self._name)
        return f"{endpoint.name} {words}"

    def _count(self, calls: Sequence[RpcCall], seconds: float) -> None:
        metrics, name = self._metrics, self._name
        metrics.inc("kms_connector_rpc_requests", name)
        metrics.observe("kms_connector_rpc_seconds", seconds, name)
        counts: dict[str, int] = {}
        for call in calls:
            counts[call.method] = counts.get(call.method, 0) + 1
        for method, count in counts.items():
            metrics.inc("kms_connector_rpc_calls", name, method, by=count)

    async def _check_chain(self, post: Post) -> None:
        """Refuse a new connection to an endpoint of another chain (EV8)."""
        answer = _read(await post(jsonrpc.encode_call(_CHAIN_ID, 0)), partial(jsonrpc.decode_call, call_id=0))
        if answer.error is not None:
            raise BadAnswer(f"eth_chainId was answered with error code {answer.error.code}")
        actual = jsonrpc.quantity(answer.result, "chain id")
        if actual != self._chain_id:
            raise WrongChain(actual, self._chain_id)

    async def _ask(self, endpoint: _Endpoint, calls: Sequence[RpcCall]) -> list[RpcAnswer]:
        """Ask in parts of at most `max_batch`, halved while the endpoint refuses them."""
        size = endpoint.max_batch
        while True:
            try:
                answers = await self._in_parts(endpoint, calls, size)
            except BatchRefused as refused:
                if refused.error.code == RATE_LIMITED:
                    raise HttpFault("rate limit exceeded") from None
                size = min(size, len(calls)) // 2
                continue
            if size < endpoint.max_batch:
                log.info("%s: %s takes batches of at most %d calls", self.dependency, endpoint.name, size)
                endpoint.max_batch = size
            return answers

    async def _in_parts(self, endpoint: _Endpoint, calls: Sequence[RpcCall], size: int) -> list[RpcAnswer]:
        if size <= 1 or len(calls) == 1:
            return await self._single_calls(endpoint, calls)
        answers: list[RpcAnswer] = []
        for start in range(0, len(calls), size):
            part = calls[start : start + size]
            reply = await endpoint.http.post(jsonrpc.encode_batch(part))
            answers += _read(reply, partial(jsonrpc.decode_batch, count=len(part)), is_batch=len(part) > 1)
        return answers

    async def _single_calls(self, endpoint: _Endpoint, calls: Sequence[RpcCall]) -> list[RpcAnswer]:
        if len(calls) <= IN_ORDER:
            return [await self._single_call(endpoint, call) for call in calls]
        answers: dict[int, RpcAnswer] = {}
        waiting = iter(enumerate(calls))

        async def ask_on() -> None:
            for index, call in waiting:
                answers[index] = await self._single_call(endpoint, call)

        await _side_by_side(ask_on, SINGLE_CALLS)
        return [answers[index] for index in range(len(calls))]

    async def _single_call(self, endpoint: _Endpoint, call: RpcCall) -> RpcAnswer:
        reply = await endpoint.http.post(jsonrpc.encode_call(call, 1))
        return _read(reply, partial(jsonrpc.decode_call, call_id=1))


async def _side_by_side(work: Callable[[], Awaitable[None]], count: int) -> None:
    """Run `count` of `work`; the first of their exceptions comes out bare."""
    failure: Exception | None = None

    async def one(scope: trio.CancelScope) -> None:
        nonlocal failure
        try:
            await work()
        except (HttpFault, BadAnswer) as error:
            failure = failure or error
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one, nursery.cancel_scope)
    if failure is not None:
        raise failure


def _read(reply: Reply, decode: Callable[[bytes], T], *, is_batch: bool = False) -> T:
    """The decoded body; a status that says "not me, not now" is a fault whatever the body.

    Some providers put JSON-RPC errors under 4xx; a batch refused with such a status and no JSON may be too large.
    """
    status = reply.status
    if status == 200:
        return decode(reply.body)
    if status in (401, 403):
        raise HttpFault(f"HTTP {status}: is the API key in its URL right?")
    if status in (404, 408, 425, 429) or status >= 500 or status < 400:
        raise HttpFault(f"HTTP {status}")
    try:
        return decode(reply.body)
    except BadAnswer:
        if is_batch:
            raise BatchRefused(RpcError(-32600, f"HTTP {status}")) from None
        raise HttpFault(f"HTTP {status}") from None
