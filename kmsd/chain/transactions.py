"""EIP-1559 transactions (type 2 of EIP-2718): encode, sign, hash, decode.

Written out here instead of through eth-account because a response costs one of these on the hot path; the tests compare
every byte with eth-account. Amounts are wei, integers inside RLP are big-endian without leading zeros.
"""

from typing import Any

import attrs

from kmsd.wire.errors import WireError
from kmsd.wire.keccak import keccak256
from kmsd.wire.signatures import recover

TYPE = b"\x02"
"""The envelope's type byte (EIP-1559)."""


class MalformedTransaction(ValueError):
    """Bytes that are no signed EIP-1559 transaction."""


@attrs.frozen
class Transaction:
    """An unsigned EIP-1559 transaction. `to` is 20 bytes; the access list is always empty."""

    chain_id: int
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas_limit: int
    to: bytes
    value: int
    data: bytes

    def payload(self) -> bytes:
        """The nine RLP items that are signed, one after the other, without the list's header."""
        return b"".join(
            (
                _integer(self.chain_id),
                _integer(self.nonce),
                _integer(self.max_priority_fee_per_gas),
                _integer(self.max_fee_per_gas),
                _integer(self.gas_limit),
                _text(self.to),
                _integer(self.value),
                _text(self.data),
                b"\xc0",
            )
        )


@attrs.frozen
class SignedTransaction:
    """A decoded transaction, the address that signed it, and its hash."""

    transaction: Transaction
    sender: bytes
    hash: bytes


def signing_digest(payload: bytes) -> bytes:
    """The 32 bytes to sign for `Transaction.payload()`."""
    return keccak256(TYPE + _list_header(len(payload)) + payload)


def assemble(payload: bytes, signature: bytes) -> bytes:
    """The raw transaction from its payload and its 65-byte r‖s‖v signature (v 27 or 28)."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise ValueError("a signature is 65 bytes r, s, v with v 27 or 28")
    body = b"".join(
        (
            payload,
            _integer(signature[64] - 27),
            _integer(int.from_bytes(signature[:32], "big")),
            _integer(int.from_bytes(signature[32:64], "big")),
        )
    )
    return TYPE + _list_header(len(body)) + body


def transaction_hash(raw: bytes) -> bytes:
    """The 32-byte hash by which the chain knows the raw transaction."""
    return keccak256(raw)


def decode(raw: bytes, *, with_sender: bool = True) -> SignedTransaction:
    """Decode a raw transaction; raises MalformedTransaction.

    `with_sender=False` leaves `sender` empty and saves the recovery (for our own journal).
    """
    if raw[:1] != TYPE:
        raise MalformedTransaction("not an EIP-1559 transaction")
    items, end = _decode(raw, 1)
    if end != len(raw) or not isinstance(items, list) or len(items) != 12 or items[8] != []:
        raise MalformedTransaction("an EIP-1559 transaction is one list of twelve items with an empty access list here")
    if any(isinstance(item, list) for index, item in enumerate(items) if index != 8):
        raise MalformedTransaction("a list where bytes belong")
    chain_id, nonce, priority, max_fee, gas, value, parity, r, s = (
        _to_integer(items[index]) for index in (0, 1, 2, 3, 4, 6, 9, 10, 11)
    )
    to, data = items[5], items[7]
    if len(to) != 20 or parity > 1 or r >> 256 or s >> 256:
        raise MalformedTransaction("a recipient of other than 20 bytes, or a signature out of range")
    transaction = Transaction(chain_id, nonce, priority, max_fee, gas, to, value, data)
    sender = b""
    if with_sender:
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((27 + parity,))
        try:
            sender = recover(signing_digest(transaction.payload()), signature)
        except WireError as error:
            raise MalformedTransaction(f"unusable signature: {error}") from error
    return SignedTransaction(transaction, sender, transaction_hash(raw))


def _integer(number: int) -> bytes:
    if number < 0:
        raise ValueError("RLP has no negative integers")
    return _text(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _text(text: bytes) -> bytes:
    size = len(text)
    if size == 1 and text[0] < 0x80:
        return text
    if size < 56:
        return bytes((0x80 + size,)) + text
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0xB7 + len(length),)) + length + text


def _list_header(size: int) -> bytes:
    if size < 56:
        return bytes((0xC0 + size,))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0xF7 + len(length),)) + length


def _to_integer(text: bytes) -> int:
    if text[:1] == b"\0":
        raise MalformedTransaction("an integer with leading zeros")
    return int.from_bytes(text, "big")


def _decode(raw: bytes, start: int, depth: int = 0) -> tuple[Any, int]:
    """The RLP item at `start` and where it ends. Canonical form only."""
    if start >= len(raw) or depth > 2:
        raise MalformedTransaction("truncated or nested too deeply")
    lead = raw[start]
    if lead < 0x80:
        return raw[start : start + 1], start + 1
    is_list = lead >= 0xC0
    size = lead - (0xC0 if is_list else 0x80)
    begin = start + 1
    if size > 55:
        width = size - 55
        length = raw[begin : begin + width]
        size = int.from_bytes(length, "big")
        begin += width
        if len(length) != width or length[:1] == b"\0" or size < 56:
            raise MalformedTransaction("a length that is not canonical")
    end = begin + size
    if end > len(raw):
        raise MalformedTransaction("truncated")
    if not is_list:
        if size == 1 and raw[begin] < 0x80:
            raise MalformedTransaction("a single byte with a header")
        return raw[begin:end], end
    items: list[Any] = []
    position = begin
    while position < end:
        item, position = _decode(raw, position, depth + 1)
        items.append(item)
    if position != end:
        raise MalformedTransaction("an item that reaches beyond its list")
    return items, end
