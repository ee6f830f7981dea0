"""Buckets, the wallet, time and entropy of one life."""

import random
from collections.abc import Sequence

import attrs

from kmsd.chain.wallet import LocalWallet
from kmsd.ports import Blob, BlobFault, BlobUnavailable, DependencyDown, WalletUnavailable
from kmsd.wire.keccak import keccak256

from . import parties as p
from .determinism import now
from .lives import Life, Link

PEN = LocalWallet(p.WALLET_KEY)


@attrs.define(eq=False)
class Bucket:
    """One bucket, shared by all lives. `wrong`: it serves other bytes; `silent`: without the format's header."""

    url: str
    link: Link
    wrong: bool = False
    lacks: bool = False
    silent: bool = False


class BlobsPort:
    """`ports.Blobs` of one life. `objects`: bodies by their keccak-256 in hexadecimal."""

    def __init__(self, buckets: Sequence[Bucket], objects: dict[str, bytes], life: Life) -> None:
        self._buckets = {bucket.url: bucket for bucket in buckets}
        self._objects = objects
        self._life = life

    async def get(self, url: str, *, max_bytes: int, patience: float) -> Blob:
        """One object."""
        place, _, name = url.rpartition("/")
        bucket = self._buckets[place]
        try:
            return await bucket.link.exchange(
                self._life, f"bucket.{place}", lambda: self._read(bucket, name), deadline=patience, write=False
            )
        except DependencyDown as down:
            gave_up = down.detail.startswith("no answer")
            raise BlobUnavailable(BlobFault.DEADLINE if gave_up else BlobFault.CONNECT, down.detail) from None

    def _read(self, bucket: Bucket, name: str) -> Blob:
        body = self._objects.get(name)
        if body is None or bucket.lacks:
            raise BlobUnavailable(BlobFault.NOT_FOUND)
        if bucket.wrong:
            body = body[:-1] + b"?"
        return Blob(body, keccak256(body), None if bucket.silent else "compressed_on_cpu")


class WalletPort:
    """`ports.Wallet` of one life: the key here, or a remote signer on the other side of `link`."""

    def __init__(self, life: Life, link: Link | None) -> None:
        self._life = life
        self._link = link
        self.is_remote = link is not None

    @property
    def address(self) -> bytes:
        """Always known."""
        return p.WALLET

    async def learn_address(self) -> bytes:
        """From the remote signer, which may not answer."""
        if self._link is not None:
            await self._ask(0)
        return p.WALLET

    async def sign(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """With the real key; a remote signer may manage only the first ones."""
        able = len(digests)
        if self._link is not None:
            able = await self._ask(len(digests))
        return await PEN.sign(digests[:able])

    async def _ask(self, count: int) -> int:
        assert self._link is not None
        able = max(1, count - 2) if self._link.troubles else count
        try:
            return await self._link.exchange(self._life, "wallet", lambda: able, deadline=5.0, write=False)
        except DependencyDown as down:
            raise WalletUnavailable(down.name, down.detail) from None


class WorldTime:
    """`ports.Time`: the machine's clock, which differs from the world's by `skew` seconds."""

    def __init__(self, skew: float) -> None:
        self._skew = skew

    def now(self) -> float:
        """Unix time in seconds."""
        return now() + self._skew


class WorldEntropy:
    """`ports.Entropy` from a seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def random(self) -> float:
        """A float in [0, 1)."""
        return self._random.random()

    def token(self, size: int) -> bytes:
        """`size` bytes."""
        return self._random.randbytes(size)
