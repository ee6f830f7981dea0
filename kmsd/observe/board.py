"""What the status page shows beside health and metrics: kept here by background siblings, so reading asks nobody."""

from collections.abc import Mapping, Sequence
from typing import Any

from kmsd.ports import Wallet, WalletUnavailable
from kmsd.wire.addresses import to_checksum


class Board:
    """`keys`: the registry of keys and CRSs as last read, None before; `keys_at` in Unix seconds."""

    def __init__(self, wallet: Wallet | None = None) -> None:
        self.keys: Sequence[Mapping[str, Any]] | None = None
        self.keys_at: float | None = None
        self._wallet = wallet

    @property
    def wallet(self) -> str:
        """The address that sends, with its checksum; empty where nobody sends or a remote signer has not told it."""
        try:
            return to_checksum(self._wallet.address) if self._wallet is not None else ""
        except WalletUnavailable:
            return ""
