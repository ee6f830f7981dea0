"""What contracts do on the node double: a function from a call to its execution."""

from collections.abc import Callable

import attrs


@attrs.frozen
class EmittedLog:
    """A log that a contract emits."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@attrs.frozen
class Execution:
    """What a call does: gas, and either logs and return data or revert data."""

    gas: int = 100_000
    reverted: bytes | None = None
    output: bytes = b""
    logs: tuple[EmittedLog, ...] = ()


Contracts = Callable[[bytes, bytes, bytes, int | None], Execution]
"""(sender, to, calldata, gas limit) → what happens. A limit means a transaction: the contract changes its state if the
gas suffices; None is a question, which changes nothing."""


def nothing_happens(sender: bytes, to: bytes, data: bytes, gas: int | None) -> Execution:
    """Every call succeeds and does nothing; plain transfers cost 21,000."""
    return Execution(gas=21_000 if not data else 100_000)
