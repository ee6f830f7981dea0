"""The ciphertexts of one request, in order, verified, within the byte budget (WK2, WK4)."""

import logging
from collections.abc import Sequence

import trio

from kmsd.blobs.bucket_order import OUTAGES, BucketOrder
from kmsd.blobs.budget import ByteBudget, Reservation
from kmsd.blobs.registry import BucketRegistry
from kmsd.core.call import MAX_MESSAGE
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.core.requests import Ciphertext, ciphertext_format
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import Blob, BlobFault, Blobs, BlobUnavailable, DependencyDown
from kmsd.redact import endpoint
from kmsd.wire.handles import fhe_type_of
from kmsd.wire.v0_11.structs import SnsMaterial

log = logging.getLogger("kmsd.blobs")

COMPRESSED, EXPANDED_PER_BIT = 99_700, 16_450
"""Bytes of a ciphertext of which none of its type was fetched yet: the larger format counts (wire/kms-core.md 8)."""
HURRY = 0.25
"""Part of the whole patience that a bucket gets while others have not been asked yet."""
MAX_WORDS = 400
"""Characters of an error about one ciphertext."""


class CiphertextMissing(Exception):
    """No bucket gave a ciphertext. `outage`: some bucket could not be asked properly, so nothing blames the request."""

    def __init__(self, words: str, *, outage: bool) -> None:
        super().__init__(words)
        self.words = words
        self.outage = outage


class _Larger(Exception):
    """A ciphertext has (at least) `size` bytes, more than was reserved for it."""

    def __init__(self, position: int, size: int) -> None:
        super().__init__(position, size)
        self.position = position
        self.size = size


class _Sizes:
    """Guesses the size of the next ciphertext of a type from the last ones: up at once, down slowly."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._guesses: dict[int, int] = {}

    def guess(self, handle: bytes) -> int:
        known = self._guesses.get(handle[30])
        return min(
            self._limit, max(COMPRESSED, EXPANDED_PER_BIT * fhe_type_of(handle).bits) if known is None else known
        )

    def learn(self, handle: bytes, size: int) -> None:
        last = self._guesses.get(handle[30], size)
        self._guesses[handle[30]] = size if size >= last else last - (last - size + 7) // 8


class Payload:
    """Ciphertexts in memory. Use it as a context manager, and keep no reference to them beyond it."""

    def __init__(self, ciphertexts: list[Ciphertext], reservation: Reservation) -> None:
        self._ciphertexts = ciphertexts
        self._reservation = reservation

    def __enter__(self) -> Sequence[Ciphertext]:
        return self._ciphertexts

    def __exit__(self, *_: object) -> None:
        self._ciphertexts.clear()
        self._reservation.release()


class Ciphertexts:
    """Fetches ciphertexts from whichever bucket has the right bytes.

    `fallback_urls` are asked after the coprocessors' own buckets; objects over `limit` bytes are refused, and no more
    than the Core takes in one message are held for one request. A download may take `patience` seconds, a part of that
    while other buckets remain.
    """

    def __init__(
        self,
        blobs: Blobs,
        registry: BucketRegistry,
        budget: ByteBudget,
        *,
        fallback_urls: Sequence[str],
        limit: int,
        patience: float,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._patience = patience
        self._blobs = blobs
        self._registry = registry
        self._budget = budget
        self._fallback_urls = tuple(fallback_urls)
        self._limit = limit
        self._metrics = metrics
        self._health = health
        self._order = BucketOrder()
        self._sizes = _Sizes(limit)

    async def fetch(self, materials: Sequence[SnsMaterial]) -> "Payload":
        """The ciphertexts of `materials` in their order; their memory counts as used until the payload is let go.

        Raises CiphertextMissing, or DependencyDown where the Gateway would have to be asked for the buckets and does
        not answer.
        """
        ticket = self._budget.ticket()
        sizes = [self._sizes.guess(material.ct_handle) for material in materials]
        while True:
            reservation = await self._budget.reserve(min(MAX_MESSAGE, sum(sizes)), ticket)
            try:
                ciphertexts = await self._fetch_all(materials, sizes)
            except _Larger as larger:
                fhe_type = materials[larger.position].ct_handle[30]
                sizes = [
                    max(size, larger.size) if material.ct_handle[30] == fhe_type else size
                    for size, material in zip(sizes, materials, strict=True)
                ]
                reservation.release()
            except BaseException:
                reservation.release()
                raise
            else:
                reservation.shrink(sum(len(ciphertext.body) for ciphertext in ciphertexts))
                return Payload(ciphertexts, reservation)

    async def _fetch_all(self, materials: Sequence[SnsMaterial], sizes: Sequence[int]) -> list[Ciphertext]:
        if len(materials) == 1 or sum(sizes) > MAX_MESSAGE:
            return await self._fetch_in_turn(materials, sizes)
        found: list[Ciphertext | None] = [None] * len(materials)
        failures: list[Exception] = []

        async def fetch(position: int) -> None:
            try:
                found[position] = await self._fetch(materials[position], position, sizes[position], self._limit)
            except (_Larger, CiphertextMissing, DependencyDown) as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for position in range(len(materials)):
                nursery.start_soon(fetch, position)
        if failures:
            found.clear()
            raise failures[0]
        return [ciphertext for ciphertext in found if ciphertext is not None]

    async def _fetch_in_turn(self, materials: Sequence[SnsMaterial], sizes: Sequence[int]) -> list[Ciphertext]:
        """One after the other, each into what the earlier ones left of the Core's largest message."""
        found: list[Ciphertext] = []
        left = MAX_MESSAGE
        for position, (material, size) in enumerate(zip(materials, sizes, strict=True)):
            limit = min(self._limit, left)
            found.append(await self._fetch(material, position, min(size, limit), limit))
            left -= len(found[-1].body)
        return found

    async def _fetch(self, material: SnsMaterial, position: int, reserved: int, limit: int) -> Ciphertext:
        """One ciphertext from the first bucket that has it and names its format (decisions.md 19a)."""
        urls, down = await self._registry.urls(material.coprocessor_tx_senders)
        candidates = self._order.order(urls, self._fallback_urls, material.sns_ciphertext_digest, _now())
        unnamed: Blob | None = None
        faults: list[tuple[str, BlobUnavailable]] = []
        hurry = self._patience * (HURRY if len(candidates) > 1 else 1.0)
        turns = [(url, hurry) for url in candidates]
        for url, patience in turns:
            if unnamed is not None and (patience > hurry or self._order.state(url).names_format is False):
                continue  # only its word about the format is wanted, and it would not tell
            try:
                blob = await self._ask(url, material, position, reserved, limit, patience)
            except BlobUnavailable as error:
                faults.append((url, error))
                if error.fault is BlobFault.DEADLINE and patience < self._patience:
                    turns.append((url, self._patience))  # the loop comes to it when all others have failed
                continue
            named = ciphertext_format(blob.format)
            if named is not None:
                return self._take(material, blob, named)
            unnamed = blob
        if unnamed is not None:
            return self._take(material, unnamed, CiphertextFormat.BigExpanded)
        self._registry.doubt(material.coprocessor_tx_senders)
        if down is not None and not faults:
            raise down
        outage = down is not None or any(error.fault in OUTAGES for _, error in faults)
        raise CiphertextMissing(_words(material, faults), outage=outage)

    async def _ask(
        self, url: str, material: SnsMaterial, position: int, reserved: int, limit: int, patience: float
    ) -> Blob:
        """The object from one bucket if it is the right one. Raises BlobUnavailable, _Larger."""
        name = endpoint(url)
        began = _now()
        try:
            target = f"{url.rstrip('/')}/{material.sns_ciphertext_digest.hex()}"
            blob = await self._blobs.get(target, max_bytes=reserved, patience=patience)
            if blob.keccak != material.sns_ciphertext_digest:
                raise BlobUnavailable(BlobFault.WRONG_BYTES, f"keccak-256 0x{blob.keccak.hex()}")
        except BlobUnavailable as error:
            if error.fault is BlobFault.TOO_LARGE and reserved < limit and _may_be(error, reserved, limit):
                raise _Larger(position, error.announced or min(limit, 4 * reserved)) from None
            self._blame(url, name, error)
            raise
        self._order.good(url, ciphertext_format(blob.format) is not None)
        self._health.ok(f"bucket {name}")
        self._metrics.inc("kms_connector_bucket_downloads", name)
        self._metrics.inc("kms_connector_bucket_bytes", name, by=float(len(blob.body)))
        self._metrics.observe("kms_connector_bucket_seconds", _now() - began, name)
        return blob

    def _blame(self, url: str, name: str, error: BlobUnavailable) -> None:
        self._order.bad(url, error.fault, _now())
        if error.fault is not BlobFault.NOT_FOUND:
            self._health.fault(f"bucket {name}", str(error))
        self._metrics.inc("kms_connector_bucket_faults", name, error.fault.name.lower())
        self._metrics.inc("kms_connector_worker_s3_ciphertext_retrieval_errors")

    def _take(self, material: SnsMaterial, blob: Blob, named: CiphertextFormat) -> Ciphertext:
        self._sizes.learn(material.ct_handle, len(blob.body))
        self._metrics.inc("kms_connector_worker_s3_ciphertext_retrieval_counter")
        return Ciphertext(material.ct_handle, blob.body, named)


def _may_be(error: BlobUnavailable, reserved: int, limit: int) -> bool:
    """Whether an object that did not fit into `reserved` bytes may be a ciphertext within `limit`."""
    return error.announced is None or reserved < error.announced <= limit


def _words(material: SnsMaterial, faults: Sequence[tuple[str, BlobUnavailable]]) -> str:
    asked = "; ".join(f"{endpoint(url)}: {error}" for url, error in faults)[:MAX_WORDS]
    digest = material.sns_ciphertext_digest.hex()
    if not asked:
        return f"ciphertext 0x{digest} is in no bucket: none of its coprocessors has one registered in GatewayConfig"
    return f"ciphertext 0x{digest} could not be had: {asked}"


def _now() -> float:
    return trio.current_time()
