"""How the Core double answers: the order of checks and the status codes of wire/kms-core.md 3.5.

Each handler takes the request's bytes and returns the reply message, or raises Refusal.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from grpclib.const import Status

from kmsd.core.decoding import Undecodable, decode
from kmsd.core.methods import CORE_SERVICE
from kmsd.core.pb.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse, HealthCheckResponseServingStatus
from kmsd.core.pb.kms import v1 as kms
from kmsd.sandbox.core_double_requests import (
    Decryption,
    Invalid,
    Malformed,
    domain_of,
    id_of,
    parse_decryption,
    parse_id,
)
from kmsd.sandbox.core_double_results import Signer
from kmsd.sandbox.core_double_store import Durable, Entry, Limiter, Refusal, Store
from kmsd.wire import ids
from kmsd.wire.eip712 import Domain

DEFAULT_CONTEXT = int("01" * 29 + "020304", 16)
DEFAULT_EPOCH = 1


@attrs.define
class Settings:
    """What the command line and `POST /settings` set. Times in seconds; `rate` 0: no limit of decryptions a second."""

    latency: float = 0.02
    jitter: float = 0.0
    rate: float = 0.0
    ceremony: float = 0.2
    init: float = 0.1
    long_poll: float = 60.0
    rate_tokens: int = 50_000
    dec_capacity: int = 10_000
    min_dec_cache: int = 6_000


class CoreDouble:
    """One Core. `signer.centralized` chooses the flavour."""

    def __init__(self, signer: Signer, settings: Settings, state: Path | None, keys: tuple[int, ...] = ()) -> None:
        self.signer = signer
        self.settings = settings
        self.durable = Durable.load(state)
        self.durable.keys |= {ids.to_core(key) for key in keys}
        self.limiter = Limiter(settings.rate_tokens)
        self.handlers: dict[str, Callable[[bytes], Awaitable[Any]]] = {
            "PublicDecrypt": self._public_decrypt,
            "UserDecrypt": self._user_decrypt,
            "KeyGenPreproc": self._preproc,
            "KeyGen": self._keygen,
            "CrsGen": self._crsgen,
            "Init": self._init,
            "InitiateResharing": self._reshare,
            "GetPublicDecryptionResult": lambda data: self._poll(self.public, data),
            "GetUserDecryptionResult": lambda data: self._poll(self.user, data),
            "GetKeyGenPreprocResult": lambda data: self._poll(self.preprocs, data),
            "GetKeyGenResult": lambda data: self._poll(self.keygens, data),
            "GetCrsGenResult": lambda data: self._poll(self.crs, data),
            "GetResharingResult": lambda data: self._poll(self.reshares, data),
            "GetKeyMaterialAvailability": self._availability,
            "GetHealthStatus": self._health_status,
            "GetOperatorPublicKey": self._operator_public_key,
            "Check": self._health,
        }
        self._random = random.Random(1)
        self._free_at = 0.0
        self.restart()

    # -----------------------------------------------------------------------------------------------------------------
    # Life

    def restart(self) -> None:
        """Forget what a restart forgets. Operations that were running never end."""
        capacity, cache = self.settings.dec_capacity, self.settings.min_dec_cache
        self.public, self.user = Store(capacity, cache), Store(capacity, cache)
        self.preprocs, self.keygens, self.crs, self.reshares = Store(), Store(), Store(), Store()
        self.consumed: set[int] = set()
        self.limiter.held = 0
        self.serving = self.signer.centralized
        self.init_done = False
        self._keygen_turn = asyncio.Lock()
        self._init_turn = asyncio.Lock()
        if not self.signer.centralized:
            for key, saved in self.durable.keygens.items():
                self._restore(self.keygens, int(key, 16), self._keygen_maker(int(key, 16), saved))
        for crs, saved in self.durable.crs.items():
            self._restore(self.crs, int(crs, 16), self._crs_maker(int(crs, 16), saved))

    def fail_running(self) -> None:
        """Every running operation fails."""
        for store in (self.public, self.user, self.preprocs, self.keygens, self.crs, self.reshares):
            for entry in store.entries.values():
                if not entry.finished and entry.make is not None:
                    entry.finish(failed=True)

    def burn(self, method: str, data: bytes) -> None:
        """Register the request's id so that it never finishes."""
        store = {"PublicDecrypt": self.public, "UserDecrypt": self.user}.get(method)
        if store is not None:
            store.add(parse_decryption(data, user=method == "UserDecrypt").request_id, None)
            return
        by_method: dict[str, tuple[Store, type[Any]]] = {
            "KeyGenPreproc": (self.preprocs, kms.KeyGenPreprocRequest),
            "KeyGen": (self.keygens, kms.KeyGenRequest),
            "CrsGen": (self.crs, kms.CrsGenRequest),
            "InitiateResharing": (self.reshares, kms.InitiateResharingRequest),
        }
        store, message_type = by_method[method]
        store.add(id_of(_parse(message_type, data).request_id), None)

    def live(self) -> dict[str, dict[str, int]]:
        """Operations held, by store: all, finished, failed."""
        stores = {
            "public": self.public,
            "user": self.user,
            "preproc": self.preprocs,
            "keygen": self.keygens,
            "crs": self.crs,
            "reshare": self.reshares,
        }
        return {
            name: {
                "all": len(store.entries),
                "finished": sum(entry.finished for entry in store.entries.values()),
                "failed": sum(entry.failed for entry in store.entries.values()),
            }
            for name, store in stores.items()
        }

    # -----------------------------------------------------------------------------------------------------------------
    # Decryptions

    async def _public_decrypt(self, data: bytes) -> kms.Empty:
        return self._decrypt("PublicDecrypt", self.public, data, Status.INVALID_ARGUMENT)

    async def _user_decrypt(self, data: bytes) -> kms.Empty:
        return self._decrypt("UserDecrypt", self.user, data, Status.INTERNAL)

    def _decrypt(self, method: str, store: Store, data: bytes, unknown_context: Status) -> kms.Empty:
        user = method == "UserDecrypt"
        request: Decryption | Invalid
        try:
            request = parse_decryption(data, user=user)
        except Invalid as error:
            request = error
        cost = self.limiter.take(method)
        if not cost:
            raise Refusal(Status.RESOURCE_EXHAUSTED)
        try:
            if isinstance(request, Invalid):
                raise Refusal(Status.INVALID_ARGUMENT, str(request))
            entry = self._register_decryption(store, request, unknown_context)
        except Refusal:
            self.limiter.held -= cost
            raise
        make = self.signer.user_bytes if user else self.signer.public_bytes
        entry.make = partial(make, request)
        entry.request = request
        self._later(self._decryption_time(), entry, cost)
        return _EMPTY

    def _register_decryption(self, store: Store, request: Decryption, unknown_context: Status) -> Entry:
        if request.context_id not in (None, DEFAULT_CONTEXT):
            raise Refusal(Status.NOT_FOUND if self.signer.centralized else unknown_context, "unknown context")
        if request.request_id in store.entries:
            raise Refusal(Status.ALREADY_EXISTS)
        if not store.room():
            raise Refusal(Status.ABORTED, "store full")
        known = ids.to_core(request.key_id) in self.durable.keys and request.epoch_id in (None, DEFAULT_EPOCH)
        if not known and self.signer.centralized:
            raise Refusal(Status.NOT_FOUND, "unknown key or epoch")
        entry = store.add(request.request_id, None)
        if not known:
            raise Refusal(Status.NOT_FOUND, "unknown key or epoch")  # the id is burnt now
        return entry

    def _decryption_time(self) -> float:
        """Seconds until a decryption that is sent now is done."""
        now = asyncio.get_running_loop().time()
        delay = self.settings.latency + self.settings.jitter * self._random.random()
        if self.settings.rate > 0:
            self._free_at = max(self._free_at, now) + 1.0 / self.settings.rate
            delay = max(delay, self._free_at - now)
        return delay

    # -----------------------------------------------------------------------------------------------------------------
    # Ceremonies

    async def _preproc(self, data: bytes) -> kms.Empty:
        request = _parse(kms.KeyGenPreprocRequest, data)
        number, domain = _id_and_domain(request)
        if number in self.preprocs.entries:
            raise Refusal(Status.ALREADY_EXISTS)
        if int(request.params) not in (0, 1):
            if self.signer.centralized:
                self.preprocs.add(number, None)
            raise Refusal(Status.INVALID_ARGUMENT, "params")
        if not self.signer.centralized:
            context, epoch = _optional_id(request.context_id), _optional_id(request.epoch_id)
            if not self.durable.prss or context not in (None, DEFAULT_CONTEXT) or epoch not in (None, DEFAULT_EPOCH):
                raise Refusal(Status.NOT_FOUND, "no such context or epoch")
        cost = self._take("KeyGenPreproc")
        if number in self.consumed and not self.signer.centralized:
            self.limiter.held -= cost
            self.preprocs.add(number, None)
            raise Refusal(Status.ABORTED, "launch failure")
        entry = self.preprocs.add(number, lambda: self.signer.preproc_result(number, domain))
        self._later(0.0 if self.signer.centralized else self.settings.ceremony, entry, cost)
        return _EMPTY

    async def _keygen(self, data: bytes) -> kms.Empty:
        async with self._keygen_turn:
            request = _parse(kms.KeyGenRequest, data)
            number, domain = _id_and_domain(request)
            prep = _checked(lambda: id_of(request.preproc_id))
            if number in self.keygens.entries:
                raise Refusal(Status.ALREADY_EXISTS)
            cost = self._take("KeyGen")
            try:
                preproc = self.preprocs.entries.get(prep)
                if preproc is None:
                    raise Refusal(Status.NOT_FOUND, "no such preprocessing")
                if not await preproc.wait(self.settings.long_poll):
                    raise Refusal(Status.UNAVAILABLE, "preprocessing is running")
                if preproc.result() is None:
                    raise Refusal(Status.INTERNAL, "preprocessing failed")
            except BaseException:
                self.limiter.held -= cost
                raise
            self.preprocs.entries.pop(prep, None)
            self.consumed.add(prep)
            saved = [ids.to_core(prep), *_saved_domain(domain)]
            key = ids.to_core(number)
            entry = self.keygens.add(number, self._keygen_maker(number, saved))
            exists = key in self.durable.keys

            def done() -> None:
                if not exists:
                    self.durable.keys.add(key)
                    self.durable.keygens[key] = saved
                    self.durable.save()

            self._later(self.settings.ceremony, entry, cost, done, fails=exists)
            return _EMPTY

    async def _crsgen(self, data: bytes) -> kms.Empty:
        request = _parse(kms.CrsGenRequest, data)
        cost = self._take("CrsGen")
        try:
            number, domain = _id_and_domain(request)
            bits = request.max_num_bits if request.max_num_bits is not None else 2048
            if bits not in {1 << power for power in range(12)} or int(request.params) not in (0, 1):
                raise Refusal(Status.INVALID_ARGUMENT, "max_num_bits or params")
            if number in self.crs.entries:
                raise Refusal(Status.ALREADY_EXISTS)
        except Refusal:
            self.limiter.held -= cost
            raise
        if int(request.params) == 1:
            bits = max(bits, 4)
        saved = [str(bits), *_saved_domain(domain)]
        entry = self.crs.add(number, self._crs_maker(number, saved))

        def done() -> None:
            self.durable.crs[ids.to_core(number)] = saved
            self.durable.save()

        self._later(self.settings.ceremony, entry, cost, done)
        return _EMPTY

    async def _init(self, data: bytes) -> kms.Empty:
        request = _parse(kms.InitRequest, data)
        _checked(lambda: id_of(request.request_id))
        async with self._init_turn:
            if self.init_done or (self.durable.prss and not self.signer.centralized):
                raise Refusal(Status.ALREADY_EXISTS)
            if _optional_id(request.context_id) not in (None, DEFAULT_CONTEXT):
                raise Refusal(Status.NOT_FOUND, "unknown context")
            await asyncio.sleep(0.0 if self.signer.centralized else self.settings.init)
            self.init_done = self.serving = True
            self.durable.prss = True
            self.durable.save()
        return _EMPTY

    async def _reshare(self, data: bytes) -> kms.InitiateResharingResponse:
        request = _parse(kms.InitiateResharingRequest, data)
        number, domain = _id_and_domain(request)
        key, prep = _checked(lambda: (id_of(request.key_id), id_of(request.preproc_id)))
        if self.signer.centralized:
            raise Refusal(Status.CANCELLED, "no resharing here")
        cost = self._take("InitiateResharing")
        names = {part.key_type for part in request.key_digests if part.digest}
        if not {"ServerKey", "PublicKey"} <= names or number in self.reshares.entries:
            self.limiter.held -= cost
            raise Refusal(Status.INTERNAL)
        entry = self.reshares.add(number, lambda: self.signer.reshare_result(number, key, prep, domain))
        self._later(self.settings.ceremony, entry, cost)
        return kms.InitiateResharingResponse(request_id=kms.RequestId(request_id=ids.to_core(number)))

    # -----------------------------------------------------------------------------------------------------------------
    # Polls and questions

    async def _poll(self, store: Store, data: bytes) -> Any:
        number = _checked(lambda: parse_id(_request_id_text(data)))
        entry = store.entries.get(number)
        if entry is None:
            raise Refusal(Status.NOT_FOUND)
        if not entry.finished and not await entry.wait(self.settings.long_poll):
            raise Refusal(Status.UNAVAILABLE, "not ready")
        reply = entry.result()
        if reply is None:
            raise Refusal(Status.INTERNAL)
        return entry

    async def _availability(self, data: bytes) -> kms.KeyMaterialAvailabilityResponse:
        return kms.KeyMaterialAvailabilityResponse(
            fhe_key_ids=sorted(self.durable.keys),
            crs_ids=sorted(self.durable.crs),
            preprocessing_ids=[ids.to_core(n) for n, entry in self.preprocs.entries.items() if entry.finished],
            storage_info=f"{'Centralized' if self.signer.centralized else 'Threshold'} KMS - file",
        )

    async def _health_status(self, data: bytes) -> kms.HealthStatusResponse:
        return kms.HealthStatusResponse(
            my_fhe_key_ids=sorted(self.durable.keys),
            my_crs_ids=sorted(self.durable.crs),
            my_storage_info="file",
            node_type=kms.NodeType.CENTRALIZED if self.signer.centralized else kms.NodeType.THRESHOLD,
        )

    async def _operator_public_key(self, data: bytes) -> kms.OperatorPublicKey:
        return kms.OperatorPublicKey(public_key=self.signer.verification_key)

    async def _health(self, data: bytes) -> HealthCheckResponse:
        request = _parse(HealthCheckRequest, data)
        if request.service not in ("", CORE_SERVICE):
            raise Refusal(Status.NOT_FOUND, "unknown service")
        serving = (
            HealthCheckResponseServingStatus.SERVING if self.serving else HealthCheckResponseServingStatus.NOT_SERVING
        )
        return HealthCheckResponse(status=serving)

    # -----------------------------------------------------------------------------------------------------------------
    # Parts

    def _take(self, method: str) -> int:
        cost = self.limiter.take(method)
        if not cost:
            raise Refusal(Status.RESOURCE_EXHAUSTED)
        return cost

    def _later(
        self,
        delay: float,
        entry: Entry,
        cost: int,
        done: Callable[[], None] | None = None,
        *,
        fails: bool = False,
    ) -> None:
        """End an operation after `delay` seconds and give its tokens back."""
        limiter_epoch = self.public

        def end() -> None:
            if limiter_epoch is not self.public:
                return  # the Core was restarted meanwhile
            self.limiter.held -= cost
            if entry.finished:
                return
            if done is not None and not fails:
                done()
            entry.finish(failed=fails)

        asyncio.get_running_loop().call_later(delay, end)

    def _keygen_maker(self, key: int, saved: list[str]) -> Callable[[], kms.KeyGenResult]:
        return lambda: self.signer.keygen_result(key, int(saved[0], 16), _loaded_domain(saved[1:]))

    def _crs_maker(self, crs: int, saved: list[str]) -> Callable[[], kms.CrsGenResult]:
        return lambda: self.signer.crs_result(crs, int(saved[0]), _loaded_domain(saved[1:]))

    @staticmethod
    def _restore(store: Store, number: int, make: Callable[[], Any]) -> None:
        store.add(number, make).finish()


_EMPTY = kms.Empty()


def _parse(message_type: type[Any], data: bytes) -> Any:
    try:
        return decode(message_type, data)
    except Undecodable as error:
        raise Malformed(str(error)) from error


def _checked(parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except Invalid as error:
        raise Refusal(Status.INVALID_ARGUMENT, str(error)) from error


def _id_and_domain(request: Any) -> tuple[int, Domain]:
    found: tuple[int, Domain] = _checked(lambda: (id_of(request.request_id), domain_of(request.domain)))
    return found


def _optional_id(message: kms.RequestId | None) -> int | None:
    """A context or epoch id, which a Core takes for its own fault when it is malformed."""
    if message is None:
        return None
    try:
        return parse_id(message.request_id)
    except Invalid as error:
        raise Refusal(Status.INTERNAL, str(error)) from error


def _request_id_text(data: bytes) -> str:
    if len(data) == 66 and data[:2] == b"\x0a\x40":
        return data[2:].decode("ascii", "replace")
    text: str = _parse(kms.RequestId, data).request_id
    return text


def _saved_domain(domain: Domain) -> list[str]:
    return [domain.name, domain.version, str(domain.chain_id), domain.verifying_contract.hex()]


def _loaded_domain(saved: list[str]) -> Domain:
    return Domain(saved[0], saved[1], int(saved[2]), bytes.fromhex(saved[3]))
