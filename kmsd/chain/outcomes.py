"""What an answer of the chain to a response means, and what happens next: pure tables (decisions.md 23 to 25a).

Three questions: what a node says to a raw transaction (`send_verdict`), what a revert says about a response
(`after_revert`), and when a response is tried again (`retry_fate`, `retry_delay`).
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS, Family
from kmsd.ports import ResponseFate, RpcError
from kmsd.wire.addresses import to_checksum
from kmsd.wire.v0_11.errors import RevertClass, RevertReason

# ---------------------------------------------------------------------------------------------------------------------
# A node's answer to eth_sendRawTransaction


class SendVerdict(StrEnum):
    """What a node's refusal of a raw transaction means for its nonce."""

    KNOWN = "known"  # it has these very bytes: as good as accepted
    NONCE_TOO_LOW = "nonce too low"  # the nonce is mined: by us or by another; receipts tell
    REPLACEMENT_UNDERPRICED = "replacement underpriced"  # its pool holds a dearer transaction of this nonce
    FEE_TOO_LOW = "fee too low"  # would be taken with higher fees
    NONCE_TOO_HIGH = "nonce too high"  # a gap before it, in the eyes of this node
    POOL_FULL = "pool full"  # no room now: fewer in flight
    NO_FUNDS = "no funds"  # the wallet cannot pay
    SYNC_TIMEOUT = "sync timeout"  # eth_sendRawTransactionSync gave up waiting: nothing is known
    UNSUPPORTED = "unsupported"  # the node lacks the method
    REFUSED = "refused"  # these bytes will never be taken by this node
    UNKNOWN = "unknown"  # anything else: try again


SEND_MESSAGES: Sequence[tuple[str, SendVerdict]] = (
    # geth, Nitro, Erigon, anvil, Besu, Nethermind, Reth in that order where they differ; the first match counts
    ("already known", SendVerdict.KNOWN),
    ("already imported", SendVerdict.KNOWN),
    ("known transaction", SendVerdict.KNOWN),
    ("alreadyknown", SendVerdict.KNOWN),
    ("nonce too low", SendVerdict.NONCE_TOO_LOW),
    ("oldnonce", SendVerdict.NONCE_TOO_LOW),
    ("nonce too high", SendVerdict.NONCE_TOO_HIGH),
    ("nonce too far", SendVerdict.NONCE_TOO_HIGH),
    ("noncegap", SendVerdict.NONCE_TOO_HIGH),
    ("future nonce", SendVerdict.NONCE_TOO_HIGH),
    ("gapped-nonce", SendVerdict.NONCE_TOO_HIGH),
    ("replacement transaction", SendVerdict.REPLACEMENT_UNDERPRICED),
    ("could not replace existing", SendVerdict.REPLACEMENT_UNDERPRICED),
    ("replacementnotallowed", SendVerdict.REPLACEMENT_UNDERPRICED),
    ("future transaction tries to replace pending", SendVerdict.POOL_FULL),
    ("txpool is full", SendVerdict.POOL_FULL),
    ("pool is full", SendVerdict.POOL_FULL),
    ("queue is full", SendVerdict.POOL_FULL),
    ("account limit exceeded", SendVerdict.POOL_FULL),
    ("too many transactions", SendVerdict.POOL_FULL),
    ("feetoolowtocompete", SendVerdict.POOL_FULL),
    ("insufficient funds", SendVerdict.NO_FUNDS),
    ("insufficientfunds", SendVerdict.NO_FUNDS),
    ("upfront cost exceeds", SendVerdict.NO_FUNDS),
    ("max fee per gas less than block base fee", SendVerdict.FEE_TOO_LOW),
    ("less than block base fee", SendVerdict.FEE_TOO_LOW),
    ("underpriced", SendVerdict.FEE_TOO_LOW),
    ("feetoolow", SendVerdict.FEE_TOO_LOW),
    ("gas price below", SendVerdict.FEE_TOO_LOW),
    ("gas price too low", SendVerdict.FEE_TOO_LOW),
    ("intrinsic gas too", SendVerdict.REFUSED),
    ("floor data gas", SendVerdict.REFUSED),
    ("exceeds block gas limit", SendVerdict.REFUSED),
    ("gas limit too high", SendVerdict.REFUSED),
    ("gaslimitexceeded", SendVerdict.REFUSED),
    ("oversized data", SendVerdict.REFUSED),
    ("maxtxsizeexceeded", SendVerdict.REFUSED),
    ("exceeds the configured cap", SendVerdict.REFUSED),
    ("higher than max fee per gas", SendVerdict.REFUSED),
    ("invalid sender", SendVerdict.REFUSED),
    ("invalid chain id", SendVerdict.REFUSED),
    ("transaction type not supported", SendVerdict.REFUSED),
)
"""The few texts by which nodes tell these cases apart; the JSON-RPC codes do not (most say -32000 for all of them)."""

SEND_CODES: dict[int, SendVerdict] = {
    -32601: SendVerdict.UNSUPPORTED,
    -32004: SendVerdict.UNSUPPORTED,
}
"""Codes that mean something where no text matched (EIP-1474)."""

SYNC_CODES: dict[int, SendVerdict] = {
    4: SendVerdict.SYNC_TIMEOUT,
    5: SendVerdict.SYNC_TIMEOUT,
    6: SendVerdict.NONCE_TOO_HIGH,
}
"""Codes of eth_sendRawTransactionSync (EIP-7966); whatever they say, only a receipt by hash is believed."""


def send_verdict(error: RpcError, *, sync: bool = False) -> SendVerdict:
    """What the refusal of a raw transaction means. `sync`: the question was eth_sendRawTransactionSync."""
    if sync and error.code in SYNC_CODES:
        return SYNC_CODES[error.code]
    message = error.message.lower()
    for text, verdict in SEND_MESSAGES:
        if text in message:
            return verdict
    return SEND_CODES.get(error.code, SendVerdict.UNKNOWN)


# ---------------------------------------------------------------------------------------------------------------------
# A revert of a response function


class Next(StrEnum):
    """What happens to a response after a revert."""

    COMPLETE = "complete"  # it is on chain already
    FAIL = "fail"  # refused for good
    CONFIRM = "confirm"  # not there: a node that lags, or a request that a reorganisation brings back some blocks later
    RETRY = "retry"  # back to the queue with back-off
    PAUSE = "pause"  # a mistake of the lane: nothing is blamed, nothing more is sent until it is over


class Refusal(StrEnum):
    """Why a lane may pause."""

    NOT_REGISTERED = "wallet not registered"
    SIGNER = "known signer refused"
    IN_A_ROW = "three responses in a row refused for registration"
    NO_FUNDS = "no funds"


REFUSED_IN_A_ROW = 3
"""Different responses refused for registration, one after the other, that pause the lane (decisions.md 24)."""


@attrs.frozen
class Situation:
    """What is known besides the revert.

    `mined`: the revert is that of a mined transaction, not of a call to a node that may lag. `known_signer`: the
    configured or registered signer, None while neither is known. `signed_by`: the address that the response's signature
    recovers to here (empty: none does), None where its request is gone. `registration_refusals`: different responses
    that were refused for registration in a row before this one.
    """

    wallet: bytes
    mined: bool
    known_signer: bytes | None
    signed_by: bytes | None = None
    registration_refusals: int = 0


@attrs.frozen
class AfterRevert:
    """The decision. `registration`: it counts as a refusal for registration. `refusal` is set for PAUSE."""

    next: Next
    words: str
    registration: bool = False
    refusal: Refusal | None = None


def _already_responded(revert: RevertReason, situation: Situation) -> AfterRevert:
    signer = revert.args[1]
    if situation.known_signer is None or signer == situation.known_signer:
        return AfterRevert(Next.COMPLETE, f"already responded, checked on chain: {revert}")
    return AfterRevert(Next.RETRY, f"{revert}: a signer that is not ours has responded through this wallet")


def _for_good(revert: RevertReason, situation: Situation) -> AfterRevert:
    return AfterRevert(Next.FAIL, str(revert))


def _not_requested(revert: RevertReason, situation: Situation) -> AfterRevert:
    return AfterRevert(Next.CONFIRM, str(revert))


def _sender_not_registered(revert: RevertReason, situation: Situation) -> AfterRevert:
    words = f"the wallet {to_checksum(situation.wallet)} is not registered as a KMS transaction sender ({revert})"
    return AfterRevert(Next.PAUSE, words, True, Refusal.NOT_REGISTERED)


def _signer_refused(revert: RevertReason, situation: Situation) -> AfterRevert:
    known = situation.known_signer
    if known is not None and revert.args[0] == known:
        return AfterRevert(Next.PAUSE, f"the known signer is refused: {revert}", True, Refusal.SIGNER)
    is_ours = known is not None and situation.signed_by == known
    words = f"{revert}; {_whose(situation)}"
    if situation.registration_refusals + 1 >= REFUSED_IN_A_ROW:
        words = f"{REFUSED_IN_A_ROW} different responses in a row were refused for registration, last: {words}"
        return AfterRevert(Next.PAUSE, words, True, Refusal.IN_A_ROW)
    return AfterRevert(Next.RETRY if known is None or is_ours else Next.FAIL, words, True)


def _whose(situation: Situation) -> str:
    """What is to be said of a signature that the chain takes for a stranger's."""
    known, signed_by = situation.known_signer, situation.signed_by
    if known is None:
        return "our own signer is not known"
    if signed_by == known:
        return (
            f"but over the request that is stored here it is our signer {to_checksum(known)}'s: the contract has "
            "another EIP-712 domain than the configuration, or another request under this id"
        )
    if signed_by is None:
        return f"not our signer {to_checksum(known)}: the payload differs from what was signed"
    found = f"recovers to {to_checksum(signed_by)}" if signed_by else "is unusable"
    return f"not our signer {to_checksum(known)}: the signature {found} here, the payload differs from what was signed"


def _unexplained(revert: RevertReason, situation: Situation) -> AfterRevert:
    return AfterRevert(Next.RETRY, str(revert))


REVERTS: dict[RevertClass, Callable[[RevertReason, Situation], AfterRevert]] = {
    RevertClass.ALREADY_RESPONDED: _already_responded,
    RevertClass.SENDER_NOT_REGISTERED: _sender_not_registered,
    RevertClass.SIGNER_REFUSED: _signer_refused,
    RevertClass.NOT_REQUESTED: _not_requested,
    RevertClass.MALFORMED: _for_good,
    RevertClass.REQUEST: _unexplained,
    RevertClass.NO_REASON: _unexplained,
    RevertClass.GENERIC: _unexplained,
    RevertClass.UNKNOWN: _unexplained,
}
"""What each class of revert leads to; what nothing explains is retried within the budget."""


def after_revert(revert: RevertReason, situation: Situation) -> AfterRevert:
    """What a revert of a response means and what happens next."""
    return REVERTS[revert.revert_class](revert, situation)


# ---------------------------------------------------------------------------------------------------------------------
# Another try


FIRST_DELAY = 2.0
LONGEST_DELAY = 300.0
CONFIRM_REFUSALS = 3
"""Refusals of a response after which one more is believed: the tries before it took 42 s (2, 8, 32)."""


def retry_delay(attempts: int, chance: float) -> float:
    """Seconds before the next try after `attempts` tries: 2, 8, 32, … 300; a quarter more at most by `chance` < 1."""
    return float(min(LONGEST_DELAY, FIRST_DELAY * 4 ** min(max(attempts, 1) - 1, 8)) * (1 + chance / 4))


def retry_fate(kind: Kind, budget_age: float, budget: float) -> ResponseFate:
    """PENDING, or FAILED for a decryption whose time budget is spent; ceremonies are never given up."""
    spent = OPERATIONS[kind].family is Family.DECRYPTION and budget_age >= budget
    return ResponseFate.FAILED if spent else ResponseFate.PENDING


def confirmed(after: AfterRevert, error_counter: int) -> AfterRevert:
    """CONFIRM resolved by how often a node has said no to this response: FAIL, or RETRY as counted."""
    if after.next is not Next.CONFIRM:
        return after
    return attrs.evolve(after, next=Next.FAIL if error_counter >= CONFIRM_REFUSALS else Next.RETRY)
