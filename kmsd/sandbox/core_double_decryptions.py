"""Public and user decryptions of the Core double: order of checks and codes of wire/kms-core.md 3.5."""

import asyncio
import random
from functools import partial

from grpclib.const import Status

from kmsd.core.pb.kms import v1 as kms
from kmsd.sandbox.core_double_life import DEFAULT_CONTEXT, DEFAULT_EPOCH, Life
from kmsd.sandbox.core_double_requests import Decryption, Invalid, parse_decryption
from kmsd.sandbox.core_double_store import Entry, Refusal, Store
from kmsd.wire import ids


class Decryptions:
    """Both kinds, each with a store of its own."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._random = random.Random(1)
        self._free_at = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget all of them."""
        settings = self._life.settings
        self.public = Store(settings.dec_capacity, settings.min_dec_cache)
        self.user = Store(settings.dec_capacity, settings.min_dec_cache)

    async def public_decrypt(self, data: bytes) -> kms.Empty:
        return self._decrypt("PublicDecrypt", self.public, data, Status.INVALID_ARGUMENT)

    async def user_decrypt(self, data: bytes) -> kms.Empty:
        return self._decrypt("UserDecrypt", self.user, data, Status.INTERNAL)

    def _decrypt(self, method: str, store: Store, data: bytes, unknown_context: Status) -> kms.Empty:
        user = method == "UserDecrypt"
        request: Decryption | Invalid
        try:
            request = parse_decryption(data, user=user)
        except Invalid as error:
            request = error
        cost = self._life.take(method)
        try:
            if isinstance(request, Invalid):
                raise Refusal(Status.INVALID_ARGUMENT, str(request))
            entry = self._register(store, request, unknown_context)
        except Refusal:
            self._life.limiter.held -= cost
            raise
        make = self._life.signer.user_bytes if user else self._life.signer.public_bytes
        entry.make = partial(make, request)
        entry.request = request
        self._life.later(self._time(), entry, cost)
        return kms.Empty()

    def _register(self, store: Store, request: Decryption, unknown_context: Status) -> Entry:
        if request.context_id not in (None, DEFAULT_CONTEXT):
            raise Refusal(Status.NOT_FOUND if self._life.signer.centralized else unknown_context, "unknown context")
        if request.request_id in store.entries:
            raise Refusal(Status.ALREADY_EXISTS)
        if not store.room():
            raise Refusal(Status.ABORTED, "store full")
        known = ids.to_core(request.key_id) in self._life.durable.keys and request.epoch_id in (None, DEFAULT_EPOCH)
        if not known and self._life.signer.centralized:
            raise Refusal(Status.NOT_FOUND, "unknown key or epoch")
        entry = store.add(request.request_id, None)
        if not known:
            raise Refusal(Status.NOT_FOUND, "unknown key or epoch")  # the id is burnt now
        return entry

    def _time(self) -> float:
        """Seconds until a decryption that is sent now is done."""
        now = asyncio.get_running_loop().time()
        delay = self._life.settings.latency + self._life.settings.jitter * self._random.random()
        if self._life.settings.rate > 0:
            self._free_at = max(self._free_at, now) + 1.0 / self._life.settings.rate
            delay = max(delay, self._free_at - now)
        return delay
