"""The `Core` port for real: the party's Core shards over gRPC, with their windows, pauses and backups."""

import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import betterproto2
import trio

from kmsd.config import CoreTls
from kmsd.core.call import LARGE, MAX_MESSAGE, Chunks, RawAnswer
from kmsd.core.connection import ChannelPool
from kmsd.core.decoding import Undecodable, decode
from kmsd.core.endpoints import parse_endpoint, tls_context
from kmsd.core.failover import Pause, Route
from kmsd.core.link import Patience
from kmsd.core.methods import DECRYPTIONS, HEALTH_REQUEST, METHODS, Lane, MethodFacts
from kmsd.core.status import NOT_USABLE
from kmsd.core.window import DEFAULT_MAXIMUM, Window
from kmsd.ports import CoreAnswer, CoreMethod, Shard, StatusCode

log = logging.getLogger("kmsd.core")

PROBE_INTERVAL = 5.0
"""Seconds between health probes of a shard that has a backup and is not on a healthy primary."""

Request = betterproto2.Message | bytes | Sequence[bytes]
"""A message, its encoding, or its encoding in chunks. Large requests come in chunks (`kmsd.core.requests`)."""


@attrs.frozen
class ShardState:
    """What an operator wants to know about one shard. `paused` holds the Core's words by send method."""

    shard: Shard
    endpoint: str
    on_backup: bool
    paused: dict[CoreMethod, str]
    window: int
    in_flight: int
    waiting: int
    busy_answers: int


class _Line:
    """Everything about one shard: its endpoints' connections, its window, its route and pauses."""

    def __init__(
        self, shard: Shard, context: ssl.SSLContext | None, patience: Patience, window: int, nursery: trio.Nursery
    ) -> None:
        self.shard = shard
        self.window = Window(window)
        self.route = Route(has_backup=shard.backup is not None)
        self.pauses: dict[CoreMethod, Pause] = {}
        self.suspicion = trio.Event()
        self.turn = trio.Lock()
        texts = [shard.endpoint] if shard.backup is None else [shard.endpoint, shard.backup]
        limits = {Lane.SEND: 4, Lane.BULK: 1, Lane.POLL: 2 + window // 50, Lane.CEREMONY: 2, Lane.ASK: 1}
        self.pools = [
            {lane: ChannelPool(parse_endpoint(text), context, patience, nursery, limits[lane]) for lane in Lane}
            for text in texts
        ]

    @property
    def endpoint(self) -> str:
        return self.pools[self.route.active][Lane.ASK].endpoint.text

    async def unary(self, endpoint: int, facts: MethodFacts, chunks: Chunks, deadline: float) -> RawAnswer:
        if sum(map(len, chunks)) > LARGE:
            return await self.pools[endpoint][Lane.BULK].unary(facts.path, chunks, deadline, self.turn)
        return await self.pools[endpoint][facts.lane].unary(facts.path, chunks, deadline)


class GrpcCore:
    """The Core shards of this party. Made by `open_core`.

    Transport faults are answers, never exceptions. A busy answer shrinks the shard's window. An answer that the Core is
    not usable for an operation pauses that operation there: calls are then answered UNAVAILABLE without asking, until a
    trial succeeds. A shard whose primary is dead is served by its backup.
    """

    def __init__(self, lines: Sequence[_Line], health_deadline: float) -> None:
        self._lines = tuple(lines)
        self._by_endpoint = {line.shard.endpoint: line for line in lines}
        self._health_deadline = health_deadline

    @property
    def shards(self) -> tuple[Shard, ...]:
        """In configured order."""
        return tuple(line.shard for line in self._lines)

    def window(self, shard: Shard) -> Window:
        """The shard's window: hold `window.slot()` from a decryption's send until its result."""
        return self._line(shard).window

    def states(self) -> tuple[ShardState, ...]:
        """A snapshot for health, metrics and `kmsd status`."""
        return tuple(
            ShardState(
                shard=line.shard,
                endpoint=line.endpoint,
                on_backup=line.route.active == 1,
                paused={method: pause.reason for method, pause in line.pauses.items() if pause.is_on},
                window=line.window.limit,
                in_flight=line.window.in_flight,
                waiting=line.window.waiting,
                busy_answers=line.window.busy_answers,
            )
            for line in self._lines
        )

    async def call(self, shard: Shard, method: CoreMethod, request: Request, *, deadline: float) -> CoreAnswer:
        """Make one unary call that ends within `deadline` seconds (decisions.md 14).

        The status is the Core's own, or UNAVAILABLE / DEADLINE_EXCEEDED for transport faults; `message` is the reply if
        OK, else None; `detail` is for humans. Raises nothing but Cancelled.
        """
        line = self._line(shard)
        facts = METHODS[method]
        began = trio.current_time()
        pause = line.pauses.get(facts.operation) if facts.operation is not None else None
        if pause is not None and not pause.admits(began):
            return CoreAnswer(StatusCode.UNAVAILABLE, None, f"paused, the Core answered: {pause.reason}", local=True)
        chunks = _chunks(request)
        if sum(map(len, chunks)) > MAX_MESSAGE:
            words = f"the request has more than {MAX_MESSAGE} bytes"
            return CoreAnswer(StatusCode.OUT_OF_RANGE, None, words, local=True)
        raw = await line.unary(line.route.active, facts, chunks, deadline)
        self._observe(line, facts, raw, began)
        if raw.status is not StatusCode.OK:
            return CoreAnswer(raw.status, None, raw.detail, raw.local)
        try:
            if len(raw.reply) > LARGE:
                message = await trio.to_thread.run_sync(decode, facts.reply, raw.reply)
            else:
                message = decode(facts.reply, raw.reply)
        except Undecodable as error:
            return CoreAnswer(StatusCode.INTERNAL, None, f"the reply is no {facts.reply.__name__}: {error}")
        return CoreAnswer(StatusCode.OK, message, "")

    async def health(self, shard: Shard) -> CoreAnswer:
        """Ask the health protocol. Any OK answer means reachable; NOT_SERVING in it means degraded, never stop."""
        return await self.call(shard, CoreMethod.HEALTH, HEALTH_REQUEST, deadline=self._health_deadline)

    async def key_availability(self, shard: Shard) -> CoreAnswer:
        """Ask which keys the Core holds (decisions.md 13): `fhe_key_ids` of the reply, 64 hex digits each."""
        return await self.call(shard, CoreMethod.GET_KEY_MATERIAL_AVAILABILITY, b"", deadline=self._health_deadline)

    def _line(self, shard: Shard) -> _Line:
        return self._by_endpoint[shard.endpoint]

    def _observe(self, line: _Line, facts: MethodFacts, raw: RawAnswer, began: float) -> None:
        """Let the shard learn from an answer: window, pause, suspicion against its endpoint."""
        if raw.local and raw.status in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
            line.suspicion.set()
            return
        if facts.operation is None:
            return
        now = trio.current_time()
        pause = line.pauses.setdefault(facts.operation, Pause())
        if raw.status in NOT_USABLE:
            if pause.unusable(f"{raw.status.name} {raw.detail}".rstrip(), began, now):
                log.error("core %s is not usable for %s: %s", line.endpoint, facts.operation, pause.reason)
            return
        if pause.usable(began):
            log.info("core %s is usable for %s again", line.endpoint, facts.operation)
        if facts.operation in DECRYPTIONS:
            is_send = facts.lane is Lane.SEND
            if raw.status is StatusCode.RESOURCE_EXHAUSTED or (is_send and raw.status is StatusCode.ABORTED):
                line.window.busy(began)
            elif is_send and raw.status is StatusCode.OK:
                line.window.accepted()

    async def _watch_route(self, line: _Line) -> None:
        """Move a shard with a backup between its endpoints; probes run only while there is reason to."""
        while True:
            if line.route.active == 0:
                await line.suspicion.wait()
            line.suspicion = trio.Event()
            answers = [False, False]

            async def probe(endpoint: int, answers: list[bool] = answers) -> None:
                raw = await line.unary(endpoint, METHODS[CoreMethod.HEALTH], (HEALTH_REQUEST,), self._health_deadline)
                answers[endpoint] = not raw.local

            async with trio.open_nursery() as nursery:
                nursery.start_soon(probe, 0)
                nursery.start_soon(probe, 1)
            if line.route.probed(*answers):
                log.warning("core shard %s is now served by %s", line.shard.endpoint, line.endpoint)
            if line.route.active == 1 or not answers[0]:
                await trio.sleep(PROBE_INTERVAL)


def _chunks(request: Request) -> Chunks:
    if isinstance(request, bytes):
        return (request,)
    if isinstance(request, betterproto2.Message):
        return (bytes(request),)
    return request


@asynccontextmanager
async def open_core(
    shards: Sequence[Shard],
    *,
    tls: CoreTls | None = None,
    window: int = DEFAULT_MAXIMUM,
    health_deadline: float = 3.0,
    patience: Patience | None = None,
) -> AsyncIterator[GrpcCore]:
    """Open the Core shards; no connection is made before the first call, so a dead Core hinders no start (PR2).

    `window` bounds decryptions in flight for each shard. Raises BadEndpoint for endpoints or TLS files that cannot be
    used. On leaving, every connection is cut.
    """
    texts = [text for shard in shards for text in (shard.endpoint, shard.backup) if text is not None]
    needs_tls = any(parse_endpoint(text).tls for text in texts)
    context = tls_context(tls or CoreTls()) if needs_tls else None
    async with trio.open_nursery() as nursery:
        lines = [_Line(shard, context, patience or Patience(), window, nursery) for shard in shards]
        core = GrpcCore(lines, health_deadline)
        for line in lines:
            if line.shard.backup is not None:
                nursery.start_soon(core._watch_route, line)
        try:
            yield core
        finally:
            nursery.cancel_scope.cancel()
