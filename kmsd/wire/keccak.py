"""Keccak-256, the hash of the chain. The one place that chooses its implementation.

pycryptodome's C code, 2.7 ms a megabyte, without the GIL held. Its Python wrapper makes two objects and a buffer for
each hash, 8 µs where the hash itself takes 2; an operation hashes some ten small texts, so these go to the C functions
directly, over one state for each thread (guarded by `tests/wire/test_signatures.py`).
"""

import threading
from typing import Any

from Crypto.Hash import keccak as _keccak
from Crypto.Util import _raw_api

_c: Any = vars(_keccak)["_raw_keccak_lib"]
_api: Any = _raw_api
_CAPACITY, _ROUNDS = _api.c_size_t(64), _api.c_ubyte(24)
_SIZE, _PADDING = _api.c_size_t(32), _api.c_ubyte(1)


class _State(threading.local):
    """A sponge and room for its hash. C runs without the GIL, so no two threads may share one."""

    def __init__(self) -> None:
        owner = _api.VoidPointer()
        if _c.keccak_init(owner.address_of(), _CAPACITY, _ROUNDS):
            raise RuntimeError("keccak_init failed")
        self._freed_with_us = _api.SmartPointer(owner.get(), _c.keccak_destroy)
        self.sponge: Any = self._freed_with_us.get()
        self.out: Any = _api.create_string_buffer(32)


_state = _State()


def keccak256(data: bytes) -> bytes:
    """The 32-byte Keccak-256 of `data` (the padding before SHA-3, as the EVM has it)."""
    sponge, out = _state.sponge, _state.out
    if (
        _c.keccak_reset(sponge)
        or _c.keccak_absorb(sponge, _api.c_uint8_ptr(data), _api.c_size_t(len(data)))
        or _c.keccak_squeeze(sponge, out, _SIZE, _PADDING)
    ):
        raise RuntimeError("keccak failed")
    digest: bytes = _api.get_raw_buffer(out)
    return digest
