"""The table of outcomes, one test per cell (issue 5)."""

import pytest

from kmsd.chain.outcomes import (
    CONFIRM_REFUSALS,
    REVERTS,
    SEND_MESSAGES,
    Next,
    Refusal,
    SendVerdict,
    Situation,
    after_revert,
    confirmed,
    retry_delay,
    retry_fate,
    send_verdict,
)
from kmsd.operations.kinds import Kind
from kmsd.ports import ResponseFate, RpcError
from kmsd.sending.broadcaster import THEN
from kmsd.wire.v0_11.errors import ERRORS, RevertClass, decode_revert

WALLET = b"\x0a" * 20
SIGNER = b"\x0b" * 20
OTHER = b"\x0c" * 20
ID = (1 << 248) + 5


def situation(**kwargs: object) -> Situation:
    return Situation(**{"wallet": WALLET, "mined": True, "known_signer": SIGNER, **kwargs})  # type: ignore[arg-type]


ALREADY = (
    "KmsNodeAlreadySigned",
    "KmsAlreadySignedForPrepKeygen",
    "KmsAlreadySignedForKeygen",
    "KmsAlreadySignedForCrsgen",
)
NOT_REQUESTED = ("DecryptionNotRequested", "PrepKeygenNotRequested", "KeygenNotRequested", "CrsgenNotRequested")

CELLS = [
    *((name, (ID, SIGNER), {}, Next.COMPLETE, None) for name in ALREADY),
    *((name, (ID, SIGNER), {"known_signer": None}, Next.COMPLETE, None) for name in ALREADY),
    *((name, (ID, OTHER), {}, Next.RETRY, None) for name in ALREADY),
    *((name, (ID,), {}, Next.CONFIRM, None) for name in NOT_REQUESTED),
    *((name, (ID,), {"mined": False}, Next.CONFIRM, None) for name in NOT_REQUESTED),
    ("EmptyKeyDigests", (ID,), {}, Next.FAIL, None),
    ("ECDSAInvalidSignature", (), {}, Next.FAIL, None),
    ("ECDSAInvalidSignatureLength", (64,), {"mined": False}, Next.FAIL, None),
    ("ECDSAInvalidSignatureS", (b"\xff" * 32,), {}, Next.FAIL, None),
    ("NotKmsTxSender", (WALLET,), {}, Next.PAUSE, Refusal.NOT_REGISTERED),
    ("NotKmsTxSender", (WALLET,), {"known_signer": None, "mined": False}, Next.PAUSE, Refusal.NOT_REGISTERED),
    ("NotKmsSigner", (SIGNER,), {}, Next.PAUSE, Refusal.SIGNER),
    ("NotKmsSigner", (OTHER,), {}, Next.FAIL, None),
    ("NotKmsSigner", (OTHER,), {"registration_refusals": 1}, Next.FAIL, None),
    ("NotKmsSigner", (OTHER,), {"registration_refusals": 2}, Next.PAUSE, Refusal.IN_A_ROW),
    ("NotKmsSigner", (OTHER,), {"known_signer": None}, Next.RETRY, None),
    ("NotKmsSigner", (OTHER,), {"known_signer": None, "registration_refusals": 2}, Next.PAUSE, Refusal.IN_A_ROW),
    ("NotKmsSigner", (OTHER,), {"signed_by": OTHER}, Next.FAIL, None),
    ("NotKmsSigner", (OTHER,), {"signed_by": b""}, Next.FAIL, None),
    ("NotKmsSigner", (OTHER,), {"signed_by": SIGNER}, Next.RETRY, None),
    ("NotKmsSigner", (OTHER,), {"signed_by": SIGNER, "registration_refusals": 2}, Next.PAUSE, Refusal.IN_A_ROW),
    ("NotKmsSigner", (SIGNER,), {"signed_by": OTHER}, Next.PAUSE, Refusal.SIGNER),
    ("KmsSignerDoesNotMatchTxSender", (OTHER, WALLET), {"signed_by": SIGNER}, Next.RETRY, None),
    ("KmsSignerDoesNotMatchTxSender", (SIGNER, WALLET), {}, Next.PAUSE, Refusal.SIGNER),
    ("KmsSignerDoesNotMatchTxSender", (OTHER, WALLET), {}, Next.FAIL, None),
    ("KmsSignerDoesNotMatchTxSender", (OTHER, WALLET), {"known_signer": None}, Next.RETRY, None),
    ("KmsSignerDoesNotMatchTxSender", (OTHER, WALLET), {"registration_refusals": 5}, Next.PAUSE, Refusal.IN_A_ROW),
    ("EnforcedPause", (), {}, Next.RETRY, None),
    ("Panic", (0x11,), {}, Next.RETRY, None),
    ("Error", ("out of luck",), {}, Next.RETRY, None),
]


@pytest.mark.guarantee("TX6")
@pytest.mark.parametrize(("name", "args", "given", "expected", "refusal"), CELLS)
def test_reverts(
    name: str, args: tuple[object, ...], given: dict[str, object], expected: Next, refusal: Refusal | None
) -> None:
    after = after_revert(decode_revert(ERRORS[name].encode(*args)), situation(**given))
    assert (after.next, after.refusal) == (expected, refusal)
    assert name in after.words
    assert after.registration == (name in ("NotKmsTxSender", "NotKmsSigner", "KmsSignerDoesNotMatchTxSender"))


@pytest.mark.parametrize("data", [b"", b"\xde\xad\xbe\xef", ERRORS["NotKmsSigner"].selector + b"\x01"])
def test_what_nothing_explains_is_retried(data: bytes) -> None:
    assert after_revert(decode_revert(data), situation()).next is Next.RETRY


def test_every_class_of_reverts_has_a_rule() -> None:
    assert set(REVERTS) == set(RevertClass)


@pytest.mark.parametrize("refusals", range(CONFIRM_REFUSALS + 2))
def test_the_chain_must_say_not_requested_repeatedly_before_a_response_fails(refusals: int) -> None:
    after = after_revert(decode_revert(ERRORS["DecryptionNotRequested"].encode(ID)), situation(mined=False))
    expected = Next.FAIL if refusals >= CONFIRM_REFUSALS else Next.RETRY
    assert confirmed(after, refusals).next is expected


MESSAGES = {
    "already known": SendVerdict.KNOWN,
    "transaction already imported": SendVerdict.KNOWN,
    "AlreadyKnown": SendVerdict.KNOWN,
    "Known transaction": SendVerdict.KNOWN,
    "nonce too low: next nonce 8, tx nonce 5": SendVerdict.NONCE_TOO_LOW,
    "nonce too low: address 0xAb, tx: 5 state: 8": SendVerdict.NONCE_TOO_LOW,
    "OldNonce, Current nonce: 8, nonce of rejected tx: 5": SendVerdict.NONCE_TOO_LOW,
    "nonce too high: address 0xAb, tx: 9 state: 8": SendVerdict.NONCE_TOO_HIGH,
    "NonceGap, Future nonce. Expected nonce: 8": SendVerdict.NONCE_TOO_HIGH,
    "Transaction nonce is too distant from current sender nonce": SendVerdict.UNKNOWN,
    "replacement transaction underpriced": SendVerdict.REPLACEMENT_UNDERPRICED,
    "ReplacementNotAllowed, ...": SendVerdict.REPLACEMENT_UNDERPRICED,
    "could not replace existing tx": SendVerdict.REPLACEMENT_UNDERPRICED,
    "transaction underpriced: gas tip cap 0, minimum needed 1": SendVerdict.FEE_TOO_LOW,
    "max fee per gas less than block base fee: address 0xAb, maxFeePerGas: 1, baseFee: 2": SendVerdict.FEE_TOO_LOW,
    "FeeTooLow, MaxFeePerGas too low": SendVerdict.FEE_TOO_LOW,
    "FeeTooLowToCompete, FeePerGas needs to be higher": SendVerdict.POOL_FULL,
    "txpool is full": SendVerdict.POOL_FULL,
    "future transaction tries to replace pending": SendVerdict.POOL_FULL,
    "insufficient funds for gas * price + value: balance 1, tx cost 2": SendVerdict.NO_FUNDS,
    "Insufficient funds for gas * price + value": SendVerdict.NO_FUNDS,
    "InsufficientFunds, Account balance: 0": SendVerdict.NO_FUNDS,
    "Upfront cost exceeds account balance": SendVerdict.NO_FUNDS,
    "intrinsic gas too low: gas 1, minimum needed 21000": SendVerdict.REFUSED,
    "intrinsic gas too high -- CallGasCostMoreThanGasLimit": SendVerdict.REFUSED,
    "exceeds block gas limit": SendVerdict.REFUSED,
    "oversized data: transaction size 200000, limit 131072": SendVerdict.REFUSED,
    "transaction gas limit too high (cap: 16777216, tx: 20000000)": SendVerdict.REFUSED,
    "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)": SendVerdict.REFUSED,
    "invalid sender": SendVerdict.REFUSED,
    "invalid chain id for signer: have 1 want 2": SendVerdict.REFUSED,
    "header not found": SendVerdict.UNKNOWN,
    "": SendVerdict.UNKNOWN,
}


@pytest.mark.parametrize(("message", "verdict"), MESSAGES.items())
def test_refusals_of_raw_transactions(message: str, verdict: SendVerdict) -> None:
    assert send_verdict(RpcError(-32000, message)) is verdict


@pytest.mark.parametrize(
    ("error", "sync", "verdict"),
    [
        (RpcError(-32601, "the method does not exist"), False, SendVerdict.UNSUPPORTED),
        (RpcError(-32601, "the method does not exist"), True, SendVerdict.UNSUPPORTED),
        (RpcError(4, "the transaction was added to the mempool but not processed"), True, SendVerdict.SYNC_TIMEOUT),
        (RpcError(5, "unknown or queued"), True, SendVerdict.SYNC_TIMEOUT),
        (RpcError(6, "gap"), True, SendVerdict.NONCE_TOO_HIGH),
        (RpcError(4, "anything"), False, SendVerdict.UNKNOWN),
        (RpcError(-32000, "nonce too low"), True, SendVerdict.NONCE_TOO_LOW),
    ],
)
def test_codes(error: RpcError, sync: bool, verdict: SendVerdict) -> None:
    assert send_verdict(error, sync=sync) is verdict


def test_every_verdict_leads_somewhere() -> None:
    assert set(THEN) == set(SendVerdict)
    assert {verdict for _, verdict in SEND_MESSAGES} <= set(SendVerdict)


@pytest.mark.guarantee("QU5")
def test_retries_wait_two_then_eight_seconds_and_at_most_six_minutes() -> None:
    assert [retry_delay(attempts, 0.0) for attempts in (0, 1, 2, 3, 4, 5, 99)] == [2, 2, 8, 32, 128, 300, 300]
    assert retry_delay(1, 0.999) < 2.5


@pytest.mark.parametrize("kind", [Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION])
@pytest.mark.guarantee("QU5")
def test_decryptions_end_with_their_budget(kind: Kind) -> None:
    assert retry_fate(kind, 99.0, 100.0) is ResponseFate.PENDING
    assert retry_fate(kind, 100.0, 100.0) is ResponseFate.FAILED


@pytest.mark.parametrize("kind", [Kind.PREP_KEYGEN, Kind.KEYGEN, Kind.CRSGEN])
def test_ceremonies_have_no_budget(kind: Kind) -> None:
    assert retry_fate(kind, 1e9, 100.0) is ResponseFate.PENDING
