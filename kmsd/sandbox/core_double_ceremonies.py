"""Ceremonies of the Core double: order of checks and codes of wire/kms-core.md 3.5, seen on the real Core besides."""

import asyncio
from collections.abc import Callable

from grpclib.const import Status

from kmsd.core.pb.kms import v1 as kms
from kmsd.sandbox.core_double_life import DEFAULT_CONTEXT, DEFAULT_EPOCH, Life
from kmsd.sandbox.core_double_requests import (
    checked,
    id_and_domain,
    id_of,
    loaded_domain,
    optional_id,
    parse,
    saved_domain,
)
from kmsd.sandbox.core_double_store import Refusal, Store
from kmsd.wire import ids


class Ceremonies:
    """Preparations, keygens, CRS, re-sharings and the PRSS."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.restart()

    def restart(self) -> None:
        """Forget what a restart forgets; a threshold Core reads its keygens again, both flavours their CRS."""
        self.preprocs, self.keygens, self.crs, self.reshares = Store(), Store(), Store(), Store()
        self._consumed: set[int] = set()
        self._init_done = False
        self.serving = self._life.signer.centralized
        self._keygen_turn = asyncio.Lock()
        self._init_turn = asyncio.Lock()
        if not self._life.signer.centralized:
            for key, saved in self._life.durable.keygens.items():
                self.keygens.add(int(key, 16), self._keygen_maker(int(key, 16), saved)).finish()
        for crs, saved in self._life.durable.crs.items():
            self.crs.add(int(crs, 16), self._crs_maker(int(crs, 16), saved)).finish()

    async def preproc(self, data: bytes) -> kms.Empty:
        request = parse(kms.KeyGenPreprocRequest, data)
        number, domain = id_and_domain(request)
        if number in self.preprocs.entries:
            raise Refusal(Status.ALREADY_EXISTS)
        if int(request.params) not in (0, 1):
            if self._life.signer.centralized:
                self.preprocs.add(number, None)
            raise Refusal(Status.INVALID_ARGUMENT, "params")
        if not self._life.signer.centralized:
            context, epoch = optional_id(request.context_id), optional_id(request.epoch_id)
            if (
                not self._life.durable.prss
                or context not in (None, DEFAULT_CONTEXT)
                or epoch not in (None, DEFAULT_EPOCH)
            ):
                raise Refusal(Status.NOT_FOUND, "no such context or epoch")
        cost = self._life.take("KeyGenPreproc")
        if number in self._consumed and not self._life.signer.centralized:
            self._life.limiter.held -= cost
            self.preprocs.add(number, None)
            raise Refusal(Status.ABORTED, "launch failure")
        entry = self.preprocs.add(number, lambda: self._life.signer.preproc_result(number, domain))
        self._life.later(0.0 if self._life.signer.centralized else self._life.settings.ceremony, entry, cost)
        return kms.Empty()

    async def keygen(self, data: bytes) -> kms.Empty:
        async with self._keygen_turn:
            request = parse(kms.KeyGenRequest, data)
            number, domain = id_and_domain(request)
            prep = checked(lambda: id_of(request.preproc_id))
            if number in self.keygens.entries:
                raise Refusal(Status.ALREADY_EXISTS)
            cost = self._life.take("KeyGen")
            try:
                preproc = self.preprocs.entries.get(prep)
                if preproc is None:
                    raise Refusal(Status.NOT_FOUND, "no such preprocessing")
                if not await preproc.wait(self._life.settings.long_poll):
                    raise Refusal(Status.UNAVAILABLE, "preprocessing is running")
                if preproc.result() is None:
                    raise Refusal(Status.INTERNAL, "preprocessing failed")
            except BaseException:
                self._life.limiter.held -= cost
                raise
            self.preprocs.entries.pop(prep, None)
            self._consumed.add(prep)
            saved = [ids.to_core(prep), *saved_domain(domain)]
            key = ids.to_core(number)
            entry = self.keygens.add(number, self._keygen_maker(number, saved))
            exists = key in self._life.durable.keys

            def done() -> None:
                if not exists:
                    self._life.durable.keys.add(key)
                    self._life.durable.keygens[key] = saved
                    self._life.durable.save()

            self._life.later(self._life.settings.ceremony, entry, cost, done, fails=exists)
            return kms.Empty()

    async def crsgen(self, data: bytes) -> kms.Empty:
        request = parse(kms.CrsGenRequest, data)
        cost = self._life.take("CrsGen")
        try:
            number, domain = id_and_domain(request)
            bits = request.max_num_bits if request.max_num_bits is not None else 2048
            if bits not in {1 << power for power in range(12)} or int(request.params) not in (0, 1):
                raise Refusal(Status.INVALID_ARGUMENT, "max_num_bits or params")
            if number in self.crs.entries:
                raise Refusal(Status.ALREADY_EXISTS)
        except Refusal:
            self._life.limiter.held -= cost
            raise
        if int(request.params) == 1:
            bits = max(bits, 4)
        saved = [str(bits), *saved_domain(domain)]
        entry = self.crs.add(number, self._crs_maker(number, saved))

        def done() -> None:
            self._life.durable.crs[ids.to_core(number)] = saved
            self._life.durable.save()

        self._life.later(self._life.settings.ceremony, entry, cost, done)
        return kms.Empty()

    async def init(self, data: bytes) -> kms.Empty:
        request = parse(kms.InitRequest, data)
        checked(lambda: id_of(request.request_id))
        async with self._init_turn:
            if self._init_done or (self._life.durable.prss and not self._life.signer.centralized):
                raise Refusal(Status.ALREADY_EXISTS)
            if optional_id(request.context_id) not in (None, DEFAULT_CONTEXT):
                raise Refusal(Status.NOT_FOUND, "unknown context")
            await asyncio.sleep(0.0 if self._life.signer.centralized else self._life.settings.init)
            self._init_done = self.serving = True
            self._life.durable.prss = True
            self._life.durable.save()
        return kms.Empty()

    async def reshare(self, data: bytes) -> kms.InitiateResharingResponse:
        request = parse(kms.InitiateResharingRequest, data)
        number, domain = id_and_domain(request)
        key, prep = checked(lambda: (id_of(request.key_id), id_of(request.preproc_id)))
        if self._life.signer.centralized:
            raise Refusal(Status.CANCELLED, "no resharing here")
        cost = self._life.take("InitiateResharing")
        names = {part.key_type for part in request.key_digests if part.digest}
        if not {"ServerKey", "PublicKey"} <= names or number in self.reshares.entries:
            self._life.limiter.held -= cost
            raise Refusal(Status.INTERNAL)
        entry = self.reshares.add(number, lambda: self._life.signer.reshare_result(number, key, prep, domain))
        self._life.later(self._life.settings.ceremony, entry, cost)
        return kms.InitiateResharingResponse(request_id=kms.RequestId(request_id=ids.to_core(number)))

    def _keygen_maker(self, key: int, saved: list[str]) -> Callable[[], kms.KeyGenResult]:
        return lambda: self._life.signer.keygen_result(key, int(saved[0], 16), loaded_domain(saved[1:]))

    def _crs_maker(self, crs: int, saved: list[str]) -> Callable[[], kms.CrsGenResult]:
        return lambda: self._life.signer.crs_result(crs, int(saved[0]), loaded_domain(saved[1:]))
