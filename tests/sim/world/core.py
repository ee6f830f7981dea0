"""The Cores: they register, compute, forget, refuse and sometimes lie, as wire/kms-core.md and design.md tell."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import attrs
import trio

from kmsd.core.pb.grpc.health import v1 as health
from kmsd.core.pb.kms import v1 as kms
from kmsd.core.window import Window
from kmsd.operations.kinds import Kind
from kmsd.operations.table import CEREMONIES, DECRYPTIONS, OPERATIONS
from kmsd.ports import CoreAnswer, CoreMethod, DependencyDown, Shard, StatusCode
from kmsd.sandbox.core_double_requests import Decryption, Invalid, parse_decryption
from kmsd.sandbox.core_double_results import Signer, Undecryptable
from kmsd.wire import ids

from . import parties as p
from .lives import LATE, Life, Link, Trace

SENDS = {op.send: op.kind for op in OPERATIONS.values()}
POLLS = {op.poll: op.kind for op in OPERATIONS.values() if op.poll is not None}
LONG_POLL = 60.0
SIGNER = Signer(p.SIGNER_KEY, party_id=1, degree=1, centralized=False)
STRANGER = Signer(bytes(31) + b"\x12", party_id=1, degree=1, centralized=False)
Key = tuple[Kind, int]


@attrs.define(eq=False)
class Entry:
    """An operation at a Core. `reply` None: it failed. `ended`: nobody waits for it any more."""

    request: bytes
    ends_at: float
    reply: Any
    burnt: bool = False


@attrs.define(eq=False)
class Core:
    """One shard, shared by all lives. `statuses`: what calls of a method are answered just now; `spoils`: how many more
    decryption results are wrong; `internal`: how many more polls of decryptions are answered INTERNAL."""

    index: int
    link: Link
    chance: random.Random
    trace: Trace
    latency: float = 0.3
    ceremony: float = 4.0
    statuses: dict[str, dict[CoreMethod, StatusCode]] = attrs.field(factory=dict)
    spoils: int = 0
    internal: int = 0
    lists_keys: bool = True
    keys: set[str] = attrs.field(factory=lambda: {ids.to_core(p.OLD_KEY)})
    prss: bool = False
    entries: dict[Key, Entry] = attrs.field(factory=dict)
    consumed: set[int] = attrs.field(factory=set)
    open_sends: list[tuple[Life, Kind]] = attrs.field(factory=list)
    on_sending: Callable[[Life, "Core", Kind], None] = lambda *_: None
    on_send: Callable[[Life, "Core", Kind, int, bytes], None] = lambda *_: None
    told: dict[Key, bytes] = attrs.field(factory=dict)
    hurt: Counter[Key] = attrs.field(factory=Counter)
    epoch: int = 0

    def restart(self) -> None:
        """Decryptions and unfinished preparations are forgotten; keys, CRS and re-sharings are kept.

        A real Core forgets finished preparations too; then only its operators can go on, which is no end for a world.
        """
        self.epoch += 1
        now = trio.current_time()
        kept = {
            key: entry
            for key, entry in self.entries.items()
            if key[0] in (Kind.KEYGEN, Kind.CRSGEN, Kind.KEY_RESHARE)
            or (key[0] is Kind.PREP_KEYGEN and entry.ends_at <= now)
        }
        self.entries = kept

    def status_of(self, method: CoreMethod) -> StatusCode | None:
        """What calls are answered just now, whatever they say."""
        return next((table[method] for table in self.statuses.values() if method in table), None)

    def register(self, life: Life, method: CoreMethod, data: bytes) -> CoreAnswer:
        """A send, at one instant."""
        kind, request_id = SENDS[method], request_id_of(method, data)
        self.on_send(life, self, kind, request_id, data)
        if (status := self.status_of(method)) is not None:
            return CoreAnswer(status, None, "just now")
        if kind is Kind.PRSS_INIT:
            status = StatusCode.ALREADY_EXISTS if self.prss else StatusCode.OK
            self.prss = True
            return CoreAnswer(status, kms.Empty() if status is StatusCode.OK else None)
        if (kind, request_id) in self.entries:
            return CoreAnswer(StatusCode.ALREADY_EXISTS, None)
        wait = self.ceremony if kind in CEREMONIES else self.latency * (0.5 + self.chance.random())
        entry = Entry(data, trio.current_time() + wait, None)
        if kind in DECRYPTIONS and ids.to_core(p.OLD_KEY) not in self.keys:
            entry.burnt = True
            self.entries[kind, request_id] = entry
            return CoreAnswer(StatusCode.NOT_FOUND, None, "unknown key")
        try:
            entry.reply = self._compute(kind, data, request_id)
        except Invalid as error:
            return CoreAnswer(StatusCode.INVALID_ARGUMENT, None, str(error))
        except Undecryptable:
            entry.reply = None
        except _Refused as refused:
            return CoreAnswer(refused.status, None, "refused")
        self.told.setdefault((kind, request_id), data)
        self.entries[kind, request_id] = entry
        return CoreAnswer(StatusCode.OK, kms.Empty())

    def _compute(self, kind: Kind, data: bytes, request_id: int) -> Any:
        if kind in DECRYPTIONS:
            return decrypt(kind, data)
        if kind is Kind.PREP_KEYGEN:
            if request_id in self.consumed:
                raise _Refused(StatusCode.ABORTED)
            return SIGNER.preproc_result(request_id, p.GENERATION_DOMAIN)
        if kind is Kind.KEYGEN:
            preparation = int(kms.KeyGenRequest.parse(data).preproc_id.request_id, 16)  # type: ignore[union-attr]
            prepared = self.entries.get((Kind.PREP_KEYGEN, preparation))
            if prepared is None or prepared.ends_at > trio.current_time():
                raise _Refused(StatusCode.NOT_FOUND)
            del self.entries[Kind.PREP_KEYGEN, preparation]
            self.consumed.add(preparation)
            self.keys.add(ids.to_core(request_id))
            return SIGNER.keygen_result(request_id, preparation, p.GENERATION_DOMAIN)
        if kind is Kind.CRSGEN:
            bits = kms.CrsGenRequest.parse(data).max_num_bits
            return SIGNER.crs_result(request_id, bits or 0, p.GENERATION_DOMAIN)
        asked = kms.InitiateResharingRequest.parse(data)
        if len(asked.key_digests) != 2:
            raise _Refused(StatusCode.INTERNAL)
        key_id, preparation = (int(one.request_id, 16) for one in (asked.key_id, asked.preproc_id))  # type: ignore[union-attr]
        return SIGNER.reshare_result(request_id, key_id, preparation, p.GENERATION_DOMAIN)

    def result(self, kind: Kind, request_id: int) -> CoreAnswer | None:
        """A poll, at one instant; None: not yet."""
        entry = self.entries.get((kind, request_id))
        if entry is None:
            return CoreAnswer(StatusCode.NOT_FOUND, None)
        if entry.burnt:
            return None
        if trio.current_time() < entry.ends_at:
            return None
        if entry.reply is None:
            return CoreAnswer(StatusCode.INTERNAL, None, "failed")
        if kind in DECRYPTIONS and self.hurt[kind, request_id] < 1:
            if self.internal > 0:
                self.internal -= 1
                self.hurt[kind, request_id] += 1
                return CoreAnswer(StatusCode.INTERNAL, None, "for once")
            if self.spoils > 0:
                self.spoils -= 1
                self.hurt[kind, request_id] += 1
                return CoreAnswer(StatusCode.OK, spoilt(kind, entry.request))
        return CoreAnswer(StatusCode.OK, entry.reply)


class _Refused(Exception):
    def __init__(self, status: StatusCode) -> None:
        super().__init__(status)
        self.status = status


@lru_cache(maxsize=4096)
def parsed(kind: Kind, data: bytes) -> Decryption:
    """A decryption request. Raises Invalid."""
    return parse_decryption(data, user=kind is Kind.USER_DECRYPTION)


@lru_cache(maxsize=4096)
def decrypt(kind: Kind, data: bytes) -> Any:
    """The signed answer to a decryption request; the same requests come in many worlds."""
    if kind is Kind.PUBLIC_DECRYPTION:
        return kms.PublicDecryptionResponse.parse(SIGNER.public_bytes(parsed(kind, data)))
    return kms.UserDecryptionResponse.parse(SIGNER.user_bytes(parsed(kind, data)))


@lru_cache(maxsize=512)
def spoilt(kind: Kind, data: bytes) -> Any:
    """The same answer, signed by a stranger."""
    if kind is Kind.PUBLIC_DECRYPTION:
        return kms.PublicDecryptionResponse.parse(STRANGER.public_bytes(parsed(kind, data)))
    return kms.UserDecryptionResponse.parse(STRANGER.user_bytes(parsed(kind, data)))


def request_id_of(method: CoreMethod, data: bytes) -> int:
    """The id that a request names."""
    if method in (CoreMethod.PUBLIC_DECRYPT, CoreMethod.USER_DECRYPT):
        return int(data[4:68], 16)
    if method is CoreMethod.INIT:
        return 1
    if method in SENDS:
        return int(kms.CrsGenRequest.parse(data).request_id.request_id, 16)  # type: ignore[union-attr]
    return int(kms.RequestId.parse(data).request_id, 16)


class CorePort:
    """`ports.Core` of one life: shards, their windows, and the calls."""

    def __init__(self, cores: Sequence[Core], life: Life, window: int) -> None:
        self._cores = cores
        self._life = life
        self.shards = tuple(Shard(core.index, f"http://core-{core.index}:50051") for core in cores)
        self._windows = [Window(window) for _ in cores]

    def window(self, shard: Shard) -> Window:
        """Room at a shard."""
        return self._windows[shard.index]

    async def call(self, shard: Shard, method: CoreMethod, request: Any, *, deadline: float) -> CoreAnswer:
        """One unary call; transport faults are answers."""
        core, window, began = self._cores[shard.index], self._windows[shard.index], trio.current_time()
        data = (
            request
            if isinstance(request, bytes)
            else b"".join(request)
            if isinstance(request, tuple)
            else bytes(request)
        )
        answer = await self._try(core, method, data, deadline)
        if method in SENDS and SENDS[method] in DECRYPTIONS:
            if answer.status in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED):
                window.busy(began)
            elif answer.status is StatusCode.OK:
                window.accepted()
        elif method in POLLS and answer.status is StatusCode.RESOURCE_EXHAUSTED:
            window.busy(began)
        return answer

    async def _try(self, core: Core, method: CoreMethod, data: bytes, deadline: float) -> CoreAnswer:
        life, verb = self._life, f"core{core.index}.{method.value}"
        try:
            if method in SENDS:
                return await self._send(core, method, data, deadline)
            if method in POLLS:
                return await self._poll(core, method, data, deadline)
            return await core.link.exchange(
                life, verb, lambda: self._other(core, method), deadline=deadline, write=False
            )
        except DependencyDown as down:
            gave_up = down.detail.startswith("no answer")
            status = StatusCode.DEADLINE_EXCEEDED if gave_up else StatusCode.UNAVAILABLE
            return CoreAnswer(status, None, down.detail, local=True)

    async def _send(self, core: Core, method: CoreMethod, data: bytes, deadline: float) -> CoreAnswer:
        life, one = self._life, (self._life, SENDS[method])
        if SENDS[method] in CEREMONIES:
            core.open_sends.append(one)
            core.on_sending(life, core, SENDS[method])
        try:
            return await core.link.exchange(
                life,
                f"core{core.index}.{method.value}",
                lambda: core.register(life, method, data),
                deadline=deadline,
                write=True,
            )
        finally:
            if one in core.open_sends:
                core.open_sends.remove(one)

    def _other(self, core: Core, method: CoreMethod) -> CoreAnswer:
        if (status := core.status_of(method)) is not None:
            return CoreAnswer(status, None, "just now")
        if method is CoreMethod.HEALTH:
            serving = health.HealthCheckResponseServingStatus.SERVING
            return CoreAnswer(StatusCode.OK, health.HealthCheckResponse(status=serving))
        return CoreAnswer(StatusCode.OK, kms.KeyMaterialAvailabilityResponse(fhe_key_ids=sorted(core.keys)))

    async def _poll(self, core: Core, method: CoreMethod, data: bytes, deadline: float) -> CoreAnswer:
        """Waits at the Core for the result, at most LONG_POLL seconds; a restart of the Core ends it."""
        kind, request_id = POLLS[method], request_id_of(method, data)
        life, began, epoch = self._life, trio.current_time(), core.epoch
        while True:
            answer = await core.link.exchange(
                life,
                f"core{core.index}.{method.value}",
                lambda: self._polled(core, method, kind, request_id),
                deadline=deadline,
                write=False,
            )
            if answer is not None:
                return answer
            entry = core.entries.get((kind, request_id))
            left = began + min(LONG_POLL, deadline) - trio.current_time()
            until = entry.ends_at - trio.current_time() if entry is not None and not entry.burnt else left
            if left <= 0:
                return CoreAnswer(StatusCode.UNAVAILABLE, None, "not ready")
            await trio.sleep(max(0.01, min(until, left, LATE)))
            if core.epoch != epoch:
                return CoreAnswer(StatusCode.UNAVAILABLE, None, "connection lost", local=True)

    @staticmethod
    def _polled(core: Core, method: CoreMethod, kind: Kind, request_id: int) -> CoreAnswer | None:
        if (status := core.status_of(method)) is not None:
            return CoreAnswer(status, None, "just now")
        return core.result(kind, request_id)
