"""Signing and the journal: nothing is broadcast that is not committed (TX1)."""

from collections.abc import Sequence
from typing import NamedTuple

import trio

from kmsd.chain.fees import Fees
from kmsd.chain.transactions import Transaction, assemble, decode, signing_digest, transaction_hash
from kmsd.failpoints import failpoint
from kmsd.operations.kinds import Kind
from kmsd.ports import JournalEntry, Lane, ResponseOutcome, Time, Wallet
from kmsd.wire.keccak import keccak256


class Draft(NamedTuple):
    """A transaction to sign. `key` names the response that it carries, None for an empty self-transfer."""

    nonce: int
    attempt: int
    key: tuple[Kind, int] | None
    to: bytes
    data: bytes
    gas_limit: int
    fees: Fees


class Journal:
    """The lane's journal with the wallet's pen; one statement at a time, since a lane is one connection."""

    def __init__(self, lane: Lane, wallet: Wallet, chain_id: int, time: Time) -> None:
        self._lane = lane
        self._wallet = wallet
        self._chain_id = chain_id
        self._time = time
        self._turn = trio.Lock()

    async def sign(self, drafts: Sequence[Draft]) -> Sequence[JournalEntry]:
        """Sign and commit; the entries of the first drafts that the signer managed.

        Raises WalletUnavailable when it managed none (nothing was written), LaneLost or DependencyDown when it is open
        whether they were committed: the lane must be opened again.
        """
        payloads = [
            Transaction(
                self._chain_id,
                draft.nonce,
                draft.fees.priority,
                draft.fees.max_fee,
                draft.gas_limit,
                draft.to,
                0,
                draft.data,
            ).payload()
            for draft in drafts
        ]
        signatures = await self._wallet.sign([signing_digest(payload) for payload in payloads])
        now = self._time.now()
        entries = []
        for draft, payload, signature in zip(drafts, payloads, signatures, strict=False):
            raw = assemble(payload, signature)
            kind, row_id = draft.key if draft.key is not None else (None, None)
            entries.append(
                JournalEntry(
                    nonce=draft.nonce,
                    attempt=draft.attempt,
                    kind=kind,
                    id=row_id,
                    calldata_hash=keccak256(draft.data),
                    raw=raw,
                    tx_hash=transaction_hash(raw),
                    gas_limit=draft.gas_limit,
                    max_fee_per_gas=draft.fees.max_fee,
                    max_priority_fee_per_gas=draft.fees.priority,
                    signed_at=now,
                )
            )
        failpoint("sender.signed")
        async with self._turn:
            await self._lane.append(entries)
        failpoint("sender.journaled")
        return entries

    async def settle(self, entries: Sequence[JournalEntry], outcomes: Sequence[ResponseOutcome] = ()) -> Sequence[bool]:
        """New states of entries and of their responses, together; True for each outcome that applied."""
        failpoint("sender.resolved")
        async with self._turn:
            applied = await self._lane.settle(entries, outcomes)
        failpoint("sender.settled")
        return applied

    async def entries(self) -> Sequence[JournalEntry]:
        """All unfinished entries."""
        async with self._turn:
            return await self._lane.entries()

    async def highest_nonce(self) -> int | None:
        """The highest nonce ever journaled."""
        async with self._turn:
            return await self._lane.highest_nonce()


def redraft(entry: JournalEntry, fees: Fees) -> Draft:
    """The same transaction with other fees: the next attempt of its nonce."""
    transaction = decode(entry.raw, with_sender=False).transaction
    key = (entry.kind, entry.id) if entry.kind is not None and entry.id is not None else None
    return Draft(entry.nonce, entry.attempt + 1, key, transaction.to, transaction.data, transaction.gas_limit, fees)
