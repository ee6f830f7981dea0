"""bincode 2 with its legacy configuration, as far as the protocol uses it.

Little-endian, integers at fixed width, lengths as u64, no padding, nothing behind the last field.
"""

from kmsd.wire.errors import WireError


class BincodeReader:
    """Reads values from the front of `data`; every method raises WireError when too few bytes are left."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        """An unsigned 32-bit integer."""
        return int.from_bytes(self._take(4), "little")

    def i32(self) -> int:
        """A signed 32-bit integer."""
        return int.from_bytes(self._take(4), "little", signed=True)

    def u64(self) -> int:
        """An unsigned 64-bit integer; lengths and counts are such."""
        return int.from_bytes(self._take(8), "little")

    def byte_string(self) -> bytes:
        """A byte string behind its length."""
        return self._take(self.u64())

    def string(self) -> str:
        """A UTF-8 string behind its length in bytes."""
        try:
            return self.byte_string().decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"not UTF-8 before byte {self._at}: {error.reason}") from None

    def end(self) -> None:
        """Raises WireError unless all bytes are read."""
        if self._at != len(self._data):
            raise WireError(f"{len(self._data) - self._at} bytes behind the last field")

    def _take(self, length: int) -> bytes:
        start, end = self._at, self._at + length
        if end > len(self._data):
            raise WireError(f"{length} bytes needed at byte {start} of {len(self._data)}")
        self._at = end
        return self._data[start:end]


def u32(value: int) -> bytes:
    """Four bytes of an unsigned integer. Raises WireError when it is out of range."""
    if not 0 <= value < 2**32:
        raise WireError(f"not a u32: {value}")
    return value.to_bytes(4, "little")


def i32(value: int) -> bytes:
    """Four bytes of a signed integer. Raises WireError when it is out of range."""
    if not -(2**31) <= value < 2**31:
        raise WireError(f"not an i32: {value}")
    return value.to_bytes(4, "little", signed=True)


def u64(value: int) -> bytes:
    """Eight bytes of an unsigned integer. Raises WireError when it is out of range."""
    if not 0 <= value < 2**64:
        raise WireError(f"not a u64: {value}")
    return value.to_bytes(8, "little")


def byte_string(value: bytes) -> bytes:
    """A byte string behind its length."""
    return u64(len(value)) + value


def string(value: str) -> bytes:
    """A UTF-8 string behind its length in bytes."""
    return byte_string(value.encode("utf-8"))
