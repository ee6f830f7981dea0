"""Revert data wherever nodes put it, and its reading."""

from typing import Any

import pytest

from kmsd.wire.reverts import find_revert_data
from kmsd.wire.v0_11.errors import CLASS_OF, ERRORS, RevertClass, decode_revert

SIGNED = ERRORS["KmsNodeAlreadySigned"].encode(1 << 248 | 12, bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266"))
HEX = f"0x{SIGNED.hex()}"
TX_HASH = f"0x{'ab' * 32}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # geth, nitro, anvil
        ({"code": 3, "message": "execution reverted", "data": HEX}, SIGNED),
        ({"code": 3, "message": "execution reverted", "data": HEX.upper().replace("0X", "0x")}, SIGNED),
        ({"code": 3, "message": "execution reverted", "data": "0x"}, b""),
        # the message is text of the node, whatever stands in it
        ({"code": 3, "message": f"execution reverted: {HEX}"}, None),
        # Nethermind
        ({"code": -32015, "message": "VM execution error.", "data": f"Reverted {HEX}"}, SIGNED),
        ({"code": -32015, "message": "VM execution error.", "data": "Reverted 0x"}, b""),
        ({"code": -32015, "message": "VM execution error.", "data": "Reverted"}, None),
        # Hardhat
        ({"code": -32603, "message": "…", "data": {"message": "…", "txHash": TX_HASH, "data": HEX}}, SIGNED),
        ({"code": -32603, "message": "…", "data": {"txHash": TX_HASH, "data": {"data": HEX}}}, SIGNED),
        # Ganache: by transaction hash
        (
            {"code": -32000, "data": {TX_HASH: {"error": "revert", "program_counter": 7, "return": HEX}, "stack": "…"}},
            SIGNED,
        ),
        # inside the whole answer, and in a list
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "…", "data": HEX}}, SIGNED),
        ({"code": 3, "data": [{"nested": [HEX]}]}, SIGNED),
        # nothing there
        ({"code": -32000, "message": "nonce too low"}, None),
        ({"code": -32000, "message": "…", "data": None}, None),
        ({"code": -32000, "message": "…", "data": {"txHash": TX_HASH}}, None),
        ({"code": 3, "message": "…", "data": "0xabc"}, None),
        ({"code": 3, "message": "…", "data": "0xzz"}, None),
        ({"code": 3, "message": "…", "data": {"data": "0x"}}, b""),
        ({"code": 3, "message": "…", "data": {"a": "0x", "b": {"data": HEX}}}, SIGNED),
        ({"code": 3, "message": "…", "data": 17}, None),
        ("execution reverted", None),
        (None, None),
        ([HEX], None),
    ],
)
def test_revert_data_is_found(error: Any, expected: bytes | None) -> None:
    assert find_revert_data(error) == expected


def test_search_is_bounded() -> None:
    deep: Any = HEX
    for _ in range(10_000):
        deep = [deep]
    assert find_revert_data({"data": deep}) is None
    assert find_revert_data({"data": [["x"] * 100_000, HEX]}) == SIGNED
    assert find_revert_data({"data": ["x"] * 100_000 + [HEX]}) is None


def test_reason_for_operators() -> None:
    reason = decode_revert(SIGNED)
    assert reason.revert_class is RevertClass.ALREADY_RESPONDED
    assert str(reason) == (
        "KmsNodeAlreadySigned(decryptionId=pub:12, signer=0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266)"
    )


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_survives_bad_arguments(name: str) -> None:
    error = ERRORS[name]
    bare = decode_revert(error.selector)
    if error.argument_names:
        assert bare.name == f"0x{error.selector.hex()}"
        assert bare.revert_class is RevertClass.UNKNOWN
        assert str(bare) == f"unknown error 0x{error.selector.hex()} (4 bytes)"
    else:
        assert (bare.name, bare.args, bare.revert_class) == (name, (), CLASS_OF[name])
        assert str(bare) == f"{name}()"


def test_other_reverts() -> None:
    assert decode_revert(b"").revert_class is RevertClass.NO_REASON
    assert str(decode_revert(b"")) == "reverted without a reason"
    assert decode_revert(b"\x01\x02").name == "0x0102"
    assert decode_revert(bytes.fromhex("deadbeef") + bytes(32)).revert_class is RevertClass.UNKNOWN

    text = decode_revert(ERRORS["Error"].encode("no\nfunds\x1b[31m " + "x" * 500))
    assert text.revert_class is RevertClass.GENERIC
    assert str(text).startswith(r"Error(message='no\nfunds\x1b[31m xxx")
    assert str(text).isprintable()
    assert len(str(text)) < 250
    assert str(decode_revert(ERRORS["Panic"].encode(0x11))) == "Panic(code=17)"


def test_classes() -> None:
    by_class = {c: {name for name in CLASS_OF if CLASS_OF[name] is c} for c in RevertClass}
    assert by_class[RevertClass.ALREADY_RESPONDED] == {
        "KmsNodeAlreadySigned",
        "KmsAlreadySignedForPrepKeygen",
        "KmsAlreadySignedForKeygen",
        "KmsAlreadySignedForCrsgen",
    }
    assert by_class[RevertClass.SENDER_NOT_REGISTERED] == {"NotKmsTxSender"}
    assert by_class[RevertClass.SIGNER_REFUSED] == {"NotKmsSigner", "KmsSignerDoesNotMatchTxSender"}
    assert {name for name in CLASS_OF if name.endswith("NotRequested")} == by_class[RevertClass.NOT_REQUESTED]
