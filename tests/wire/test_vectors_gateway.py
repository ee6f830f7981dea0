"""Every golden vector of gateway.json, in both directions where there are two."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kmsd.wire import eip712, handles, ids, signatures
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.contract import Function
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import calls, events, typed_data, views
from kmsd.wire.v0_11.errors import CLASS_OF, ERRORS, RevertClass, decode_revert

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "gateway.json").read_text())
ERA = VECTORS["v0.11"]


class Log(NamedTuple):
    topics: tuple[bytes, ...]
    data: bytes


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def plain(value: Any) -> Any:
    """A JSON value of the vectors as our records have it: hex becomes bytes, and a struct the tuple of its fields."""
    if isinstance(value, dict):
        return tuple(plain(field) for field in value.values())
    if isinstance(value, list):
        return tuple(plain(item) for item in value)
    if isinstance(value, str) and value.startswith("0x"):
        return parse_address(value) if len(value) == 42 else unhex(value)
    return value


def with_ids(fields: dict[str, Any]) -> tuple[Any, ...]:
    """`plain`, with the fields that are ids as numbers."""

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return tuple(convert(n, v) for n, v in value.items())
        if isinstance(value, list):
            return tuple(convert(name, item) for item in value)
        return int(value, 16) if name.endswith("Id") and isinstance(value, str) else plain(value)

    return tuple(convert(name, value) for name, value in fields.items())


# ---------------------------------------------------------------------------------------------------------------------
# Sections, so that a new one cannot go unnoticed


def test_no_section_is_left_untested() -> None:
    assert set(VECTORS) == {"meta", "handles", "ids", "v0.11"}
    counts = {name: len(entries) for name, entries in ERA.items()}
    assert counts == {"applies_to": 1, "eip712": 10, "events": 17, "calls": 15, "views": 8, "errors": 15}
    assert len(VECTORS["handles"]) == 7
    assert len(VECTORS["ids"]) == 8
    assert {entry["signature"] for entry in ERA["events"].values()} == {e.signature for e in events.EVENTS}
    assert {entry["signature"] for entry in ERA["calls"].values()} == {f.signature for f in calls.FUNCTIONS.values()}
    assert set(VECTORS["meta"]) == {
        "gateway_chain_id",
        "host_chain_id",
        "addresses",
        "accounts",
        "note",
        "ciphertext_preimages",
    }


# ---------------------------------------------------------------------------------------------------------------------
# meta, handles, ids


@pytest.mark.parametrize("name", VECTORS["meta"]["addresses"])
def test_address(name: str) -> None:
    text = VECTORS["meta"]["addresses"][name]
    assert to_checksum(parse_address(text)) == text
    assert parse_address(text.lower()) == parse_address(text)


@pytest.mark.parametrize("name", VECTORS["meta"]["accounts"])
def test_account(name: str) -> None:
    account = VECTORS["meta"]["accounts"][name]
    assert to_checksum(signatures.address_of(unhex(account["private_key"]))) == account["address"]


def test_ciphertext_digests() -> None:
    materials = ERA["events"]["PublicDecryptionRequest"]["decoded"]["snsCtMaterials"]
    for preimage, material in zip(VECTORS["meta"]["ciphertext_preimages"], materials, strict=True):
        assert keccak256(unhex(preimage)) == unhex(material["snsCiphertextDigest"])


@pytest.mark.parametrize("entry", VECTORS["handles"], ids=lambda entry: str(entry["name"]))
def test_handle(entry: dict[str, Any]) -> None:
    raw = unhex(entry["handle"])
    handle = handles.parse_handle(raw)
    assert handle.pack() == raw
    assert (handle.chain_id, handle.fhe_type, handle.version) == (
        entry["chain_id"],
        entry["fhe_type"],
        entry["version"],
    )
    assert handles.chain_id_of(raw) == entry["chain_id"]
    assert handle.position == entry["index_byte"]


@pytest.mark.parametrize("name", VECTORS["ids"])
def test_first_id(name: str) -> None:
    expected = {
        "firstPublicDecryption": "pub:1",
        "firstUserDecryption": "user:1",
        "firstPrepKeygen": "prep:1",
        "firstKey": "key:1",
        "firstCrs": "crs:1",
        "firstKeyReshare": "reshare:1",
        "firstKmsContext": "context:1",
        "firstEpoch": "epoch:1",
    }[name]
    value = ids.from_chain(unhex(VECTORS["ids"][name]))
    assert ids.short(value) == expected
    assert ids.parse_id(expected) == ids.parse_id(VECTORS["ids"][name]) == value
    assert ids.to_chain(value) == unhex(VECTORS["ids"][name])


# ---------------------------------------------------------------------------------------------------------------------
# events, calls, views, errors


@pytest.mark.parametrize("name", ERA["events"])
def test_event(name: str) -> None:
    entry = ERA["events"][name]
    log = Log(tuple(map(unhex, entry["topics"])), unhex(entry["data"]))
    record = events.decode(log)
    descriptor = events.BY_NAME[name.removesuffix("_delegated")]
    assert type(record) is descriptor.record
    assert record == with_ids(entry["decoded"])
    assert events.encode(record) == log
    assert descriptor.signature == entry["signature"]
    assert (
        entry["address"]
        == VECTORS["meta"]["addresses"][
            "Decryption" if descriptor.contract == events.DECRYPTION else "KMSGeneration_gateway"
        ]
    )
    assert events.content_hash(record) == keccak256(b"".join(log.topics) + log.data)


BUILDERS = {
    "publicDecryptionResponse": calls.public_decryption_response,
    "userDecryptionResponse": calls.user_decryption_response,
    "prepKeygenResponse": calls.prep_keygen_response,
    "keygenResponse": calls.keygen_response,
    "crsgenResponse": calls.crsgen_response,
}


@pytest.mark.parametrize("name", ERA["calls"])
def test_call(name: str) -> None:
    entry = ERA["calls"][name]
    calldata = unhex(entry["calldata"])
    function_name, arguments = calls.decode_call(calldata)
    function = calls.FUNCTIONS[calldata[:4]]
    assert function_name == name.split("_")[0]
    assert function.signature == entry["signature"]
    assert function.selector == unhex(entry["selector"])
    assert arguments == with_ids(entry["args"])
    assert function.encode(*arguments) == calldata
    if name.endswith("serDecryptionRequest"):
        assert calls.decode_user_request(calldata) == arguments
    assert (function_name in BUILDERS) == (function_name in calls.RESPONSES) == ("from" in entry)
    if function_name in BUILDERS:
        assert BUILDERS[function_name](*arguments) == calldata


@pytest.mark.parametrize("name", ERA["views"])
def test_view(name: str) -> None:
    entry = ERA["views"][name]
    function: Function[Any, Any] = views.VIEWS[unhex(entry["selector"])]
    assert function.name == name.split("_")[0]
    assert function.signature == entry["signature"]
    arguments = with_ids(entry["args"])
    assert function.encode(*arguments) == unhex(entry["calldata"])
    assert function.decode(unhex(entry["calldata"])) == arguments
    (expected,) = plain(entry["returns"])
    returned = function.decode_return(unhex(entry["returndata"]))
    assert returned == expected
    assert function.encode_return(returned) == unhex(entry["returndata"])


@pytest.mark.parametrize("name", ERA["errors"])
def test_error(name: str) -> None:
    entry = ERA["errors"][name]
    data = unhex(entry["data"])
    reason = decode_revert(data)
    types = entry["signature"].removesuffix(")").split("(")[1].split(",")
    expected = tuple(
        int(a, 16) if t == "uint256" and isinstance(a, str) else plain(a)
        for t, a in zip(types, entry["args"], strict=False)
    )
    assert (reason.name, reason.args, reason.data) == (name, expected, data)
    assert ERRORS[name].signature == entry["signature"]
    assert ERRORS[name].encode(*reason.args) == data
    assert reason.revert_class is CLASS_OF[name]
    assert (reason.revert_class is RevertClass.ALREADY_RESPONDED) == ("AlreadySigned" in name)


# ---------------------------------------------------------------------------------------------------------------------
# EIP-712


def digest_of(entry: dict[str, Any]) -> tuple[bytes, bytes]:
    """The domain separator and the digest of one EIP-712 vector by our functions."""
    domain = eip712.Domain(
        entry["domain"]["name"],
        entry["domain"]["version"],
        entry["domain"]["chainId"],
        parse_address(entry["domain"]["verifyingContract"]),
    )
    functions = {
        "PublicDecryptVerification": typed_data.public_decryption_digest,
        "UserDecryptResponseVerification": typed_data.user_decryption_digest,
        "UserDecryptRequestVerification": typed_data.user_request_digest,
        "DelegatedUserDecryptRequestVerification": typed_data.delegated_user_request_digest,
        "PrepKeygenVerification": typed_data.prep_keygen_digest,
        "CrsgenVerification": typed_data.crsgen_digest,
    }
    message = with_ids(entry["message"])
    if entry["primaryType"] == "KeygenVerification":
        prep_keygen_id, key_id, digests = message
        key_digests = [calls.KeyDigest(*digest) for digest in digests]
        return domain.separator, typed_data.keygen_digest(domain, prep_keygen_id, key_id, key_digests)
    return domain.separator, functions[entry["primaryType"]](domain, *message)  # type: ignore[operator]


@pytest.mark.parametrize("name", ERA["eip712"])
def test_eip712(name: str) -> None:
    entry = ERA["eip712"][name]
    separator, digest = digest_of(entry)
    assert separator == unhex(entry["domain_separator"])
    assert digest == unhex(entry["digest"])
    assert digest == keccak256(b"\x19\x01" + separator + unhex(entry["struct_hash"]))
    assert eip712.typehash(entry["type_string"]) == unhex(entry["typehash"])

    signature = unhex(entry["signature"])
    assert to_checksum(signatures.recover(digest, signature)) == entry["recovered"]
    (key,) = (a["private_key"] for a in VECTORS["meta"]["accounts"].values() if a["address"] == entry["recovered"])
    assert signatures.sign(digest, unhex(key)) == signature


def test_sub_typehash() -> None:
    assert unhex(ERA["eip712"]["KeygenVerification"]["sub_typehashes"]["KeyDigest"]) == typed_data.KEY_DIGEST
