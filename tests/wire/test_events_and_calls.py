"""Logs and calldata that are almost right."""

from typing import Any, NamedTuple

import pytest

from kmsd.wire.errors import WireError
from kmsd.wire.v0_11 import calls, events, views
from kmsd.wire.v0_11.structs import CORE_KEY_TYPES, KeyDigest, KeyType, ParamsType, SnsMaterial


class Log(NamedTuple):
    topics: tuple[bytes, ...]
    data: bytes


MATERIAL = SnsMaterial(b"h" * 32, 4 << 248 | 1, b"d" * 32, (b"c" * 20, b"e" * 20))
PUBLIC = events.PublicDecryptionRequest(1 << 248 | 7, (MATERIAL,), b"\0")
USER = events.UserDecryptionRequest(2 << 248 | 7, (MATERIAL, MATERIAL), b"u" * 20, b"k" * 869, b"")
CEREMONIES: tuple[Any, ...] = (
    events.PrepKeygenRequest(3 << 248 | 1, 0, 0),
    events.CrsgenRequest(5 << 248 | 1, 2048, 1),
    events.KeyReshareSameSet(3 << 248 | 1, 4 << 248 | 1, 6 << 248 | 1, 1),
)


@pytest.mark.parametrize("record", [PUBLIC, USER, *CEREMONIES, events.PrssInit(), events.KeygenRequest(3, 4)])
def test_topics_are_counted(record: events.Request) -> None:
    topics, data = events.encode(record)
    assert events.decode(Log(topics, data)) == record
    assert events.decode(Log(topics, data + b"behind the last field")) == record
    for wrong in ((), topics[:-1], (*topics, bytes(32)), (b"\xff" * 32, *topics[1:]), (topics[0][:31], *topics[1:])):
        with pytest.raises(WireError):
            events.decode(Log(wrong, data))
    if len(topics) > 1:
        with pytest.raises(WireError, match="a topic has 32 bytes"):
            events.decode(Log((topics[0], topics[1][:31]), data))
    # Down from the last word that content stands in: the padding behind it may be missing.
    for cut in range(0, len(data) - 31, 16):
        with pytest.raises(WireError):
            events.decode(Log(topics, data[:cut]))


@pytest.mark.parametrize("record", CEREMONIES)
@pytest.mark.parametrize("number", [2, 255, 256, 2**256 - 1])
def test_unknown_params_type_is_refused(record: events.Request, number: int) -> None:
    topics, data = events.encode(record)
    with pytest.raises(WireError, match="no uint8 below 2"):
        events.decode(Log(topics, data[:-32] + number.to_bytes(32, "big")))


def test_unknown_key_type_is_refused() -> None:
    with pytest.raises(WireError, match="no uint8 below 2"):
        calls.keygen_response(4 << 248 | 1, [KeyDigest(2, bytes(32))], bytes(65))
    right = calls.keygen_response(4 << 248 | 1, [KeyDigest(1, bytes(32))], bytes(65))
    at = right.index((1).to_bytes(32, "big") + (64).to_bytes(32, "big")) + 31
    with pytest.raises(WireError, match="no uint8 below 2"):
        calls.decode_call(right[:at] + b"\x02" + right[at + 1 :])


def test_an_event_decodes_only_its_own_logs() -> None:
    topics, data = events.encode(PUBLIC)
    with pytest.raises(WireError, match="is not that of UserDecryptionRequest"):
        events.BY_NAME["UserDecryptionRequest"].decode(Log(topics, data))


def test_dirty_address_in_an_event() -> None:
    topics, data = events.encode(USER)
    with pytest.raises(WireError, match="no address"):
        events.decode(Log(topics, data[:32] + b"\1" + data[33:]))


@pytest.mark.parametrize(
    "other",
    [
        PUBLIC._replace(decryption_id=1 << 248 | 8),
        PUBLIC._replace(extra_data=b""),
        PUBLIC._replace(sns_materials=(MATERIAL, MATERIAL)),
        PUBLIC._replace(sns_materials=(MATERIAL._replace(key_id=1),)),
        PUBLIC._replace(sns_materials=(MATERIAL._replace(ct_handle=b"i" * 32),)),
        PUBLIC._replace(sns_materials=(MATERIAL._replace(sns_ciphertext_digest=b"e" * 32),)),
        PUBLIC._replace(sns_materials=(MATERIAL._replace(coprocessor_tx_senders=(b"e" * 20, b"c" * 20)),)),
        events.PublicDecryptionRequest(1 << 248 | 7, (), b"\0"),
    ],
)
def test_content_hash_tells_contents_apart(other: events.Request) -> None:
    assert events.content_hash(PUBLIC) == events.content_hash(PUBLIC._replace())
    assert events.content_hash(other) != events.content_hash(PUBLIC)


def test_content_hash_does_not_depend_on_the_layout() -> None:
    """Two logs that say the same have one hash, even if one of them is laid out oddly."""
    topics, data = events.encode(PUBLIC)
    odd = (
        (int.from_bytes(data[:32], "big") + 32).to_bytes(32, "big")
        + (int.from_bytes(data[32:64], "big") + 32).to_bytes(32, "big")
        + bytes(32)
        + data[64:]
    )
    record = events.decode(Log(topics, odd))
    assert record == PUBLIC
    assert events.content_hash(record) == events.content_hash(PUBLIC)


def test_every_request_has_its_own_hash() -> None:
    records = [PUBLIC, USER, *CEREMONIES, events.PrssInit(), events.KeygenRequest(3, 4)]
    assert len({events.content_hash(record) for record in records}) == len(records) == len(events.REQUEST_EVENTS)
    assert [events.event_of(record).name for record in records[:2]] == [
        "PublicDecryptionRequest",
        "UserDecryptionRequest",
    ]


def test_calldata_of_another_function() -> None:
    calldata = calls.prep_keygen_response(3 << 248 | 1, bytes(65))
    with pytest.raises(WireError, match="no user decryption request: selector 0x589adb0e"):
        calls.decode_user_request(calldata)
    with pytest.raises(WireError, match="does not call crsgenResponse"):
        calls.CRSGEN_RESPONSE.decode(calldata)
    for short in (b"", b"\x58", calldata[:3]):
        with pytest.raises(WireError):
            calls.decode_call(short)
        with pytest.raises(WireError):
            calls.decode_user_request(short)


def test_user_request_with_bytes_behind_it() -> None:
    """Solidity accepts calldata that is longer than its arguments; such a request is served as well."""
    arguments = calls.UserDecryptionRequestArgs(
        (calls.HandleContractPair(b"h" * 32, b"c" * 20),),
        calls.RequestValidity(1, 2),
        calls.ContractsInfo(3, (b"c" * 20,)),
        b"u" * 20,
        b"key",
        b"signature",
        b"",
    )
    calldata = calls.USER_DECRYPTION_REQUEST.encode(*arguments)
    assert calls.decode_user_request(calldata + b"tag of a wallet") == arguments


def test_a_view_of_an_address_without_code() -> None:
    with pytest.raises(WireError, match="isDecryptionDone returned nothing: is there a contract"):
        views.IS_DECRYPTION_DONE.decode_return(b"")
    with pytest.raises(WireError, match="no bool"):
        views.IS_DECRYPTION_DONE.decode_return((2).to_bytes(32, "big"))


def test_views_with_several_values() -> None:
    materials = views.KeyMaterials(("https://kms1.example/pub", ""), (KeyDigest(0, b"s" * 32), KeyDigest(1, b"p" * 32)))
    data = views.GET_KEY_MATERIALS.encode_return(materials)
    assert views.GET_KEY_MATERIALS.decode_return(data) == materials
    domain = views.Eip712DomainView(b"\x0f", "Decryption", "1", 54321, b"a" * 20, bytes(32), ())
    assert views.EIP712_DOMAIN.decode_return(views.EIP712_DOMAIN.encode_return(domain)) == domain
    assert views.GET_ACTIVE_KEY_ID.decode_return(views.GET_ACTIVE_KEY_ID.encode_return(4 << 248 | 1)) == 4 << 248 | 1


def test_key_types_of_the_core() -> None:
    assert CORE_KEY_TYPES == {"ServerKey": KeyType.SERVER, "PublicKey": KeyType.PUBLIC}
    assert (ParamsType.DEFAULT, ParamsType.TEST) == (0, 1)
