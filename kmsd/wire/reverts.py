"""Where nodes hide revert data in a JSON-RPC error object (wire/gateway.md 3.2).

geth, nitro and anvil: `"data": "0x…"` with code 3. Nethermind: `"data": "Reverted 0x…"`. Hardhat and older tools: an
object with the hex somewhere inside. The message is never looked at.
"""

import re
from typing import Any

_HEX = re.compile(r"(?:reverted\s+)?0x((?:[0-9a-f]{2})*)\s*", re.ASCII | re.IGNORECASE)

_MAX_DEPTH = 8
_MAX_VALUES = 1000


def find_revert_data(error: Any) -> bytes | None:
    """The revert data in an error object (or in the whole answer that holds one under `error`), as decoded from JSON.

    None when there is none; empty bytes when the call reverted without a reason (`"0x"`). Hex directly under `data` is
    taken as it is; deeper inside, only hex that has the shape of revert data (empty, or a selector and whole words), so
    that a transaction hash is not taken for it.
    """
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    if not isinstance(error, dict):
        return None
    data = error.get("data")
    if isinstance(data, str):
        return _from_hex(data)
    return _search(data)


def _search(root: Any) -> bytes | None:
    """The first fitting hex string, level by level: what is nearer to the surface is nearer to the call."""
    level = [root]
    seen = 0
    empty: bytes | None = None
    for _ in range(_MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            for child in children:
                seen += 1
                if seen > _MAX_VALUES:
                    return empty
                if isinstance(child, str):
                    found = _from_hex(child)
                    if found and len(found) % 32 == 4:
                        return found
                    if found == b"":
                        empty = found
                else:
                    deeper.append(child)
        level = deeper
    return empty


def _from_hex(text: str) -> bytes | None:
    match = _HEX.fullmatch(text)
    return bytes.fromhex(match[1]) if match else None
