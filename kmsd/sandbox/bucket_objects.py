"""What the buckets hold: bodies that were put, and ciphertexts that are made anew when somebody asks for them."""

from collections import OrderedDict
from typing import NamedTuple

import attrs

from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.sandbox.ciphertexts import fake_ciphertext
from kmsd.wire.keccak import keccak256

DEFAULT_FORMAT = "compressed_on_cpu"
"""What an object's `x-amz-meta-Ct-Format` header says unless its maker wants another word."""

EVERY_BUCKET = ""
"""The place of objects that all buckets serve."""


class Made(NamedTuple):
    """The recipe of a fake ciphertext: a 32-byte handle, its clear value, its size in bytes (None: the real size)."""

    handle: bytes
    value: int
    size: int | None
    format: str | None

    def body(self) -> bytes:
        """The ciphertext; the same bytes each time. Raises ValueError for what `fake_ciphertext` refuses."""
        compressed = self.format is not None and self.format.startswith("compressed")
        inner = CiphertextFormat.BigCompressed if compressed else CiphertextFormat.BigExpanded
        return fake_ciphertext(self.handle, self.value, self.size, inner)


class Kept(NamedTuple):
    """A body as it was put."""

    content: bytes
    format: str | None

    def body(self) -> bytes:
        """The content."""
        return self.content


@attrs.define
class Objects:
    """All objects of all buckets, by bucket (EVERY_BUCKET for all) and key.

    Bodies of recipes are cached up to `cache_bytes`; the longest unused leaves first. Bodies that were put stay, so
    whoever puts them bounds them.
    """

    cache_bytes: int = 128 << 20
    cached_bytes: int = 0
    _objects: dict[tuple[str, str], Made | Kept] = attrs.field(init=False, factory=dict)
    _cache: OrderedDict[Made, bytes] = attrs.field(init=False, factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._objects)

    def add(self, bucket: str, key: str | None, thing: Made | Kept) -> str:
        """Holds `thing` under `key` (None: the keccak-256 of its body in hex) and returns the key.

        Raises ValueError where the recipe makes no ciphertext. Safe to call from a thread.
        """
        body = thing.body()
        if key is None:
            key = keccak256(body).hex()
        self._objects[bucket, key] = thing
        return key

    def find(self, bucket: str, key: str) -> Made | Kept | None:
        """The object that a bucket serves under `key`, if any."""
        return self._objects.get((bucket, key)) or self._objects.get((EVERY_BUCKET, key))

    def body(self, thing: Made | Kept) -> bytes:
        """The object's bytes."""
        if isinstance(thing, Kept):
            return thing.content
        body = self._cache.get(thing)
        if body is not None:
            self._cache.move_to_end(thing)
            return body
        body = thing.body()
        if len(body) <= self.cache_bytes:
            self._cache[thing] = body
            self.cached_bytes += len(body)
            while self.cached_bytes > self.cache_bytes:
                self.cached_bytes -= len(self._cache.popitem(last=False)[1])
        return body

    def remove(self, bucket: str, key: str) -> bool:
        """Forgets an object of exactly this bucket; whether there was one."""
        return self._objects.pop((bucket, key), None) is not None
