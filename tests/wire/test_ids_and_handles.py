"""Ids, handles and addresses in all their forms."""

import pytest
from eth_utils import to_checksum_address

from kmsd.wire import handles, ids
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.errors import WireError
from kmsd.wire.ids import IdType

KEY_7 = 4 << 248 | 7


@pytest.mark.parametrize(
    "text",
    [
        "key:7",
        " key:7\n",
        "key:007",
        str(KEY_7),
        hex(KEY_7),
        hex(KEY_7).upper(),
        f"0x{KEY_7:064x}",
        f"{KEY_7:064x}",
        f"{KEY_7:x}",  # 63 digits: the leading zero left out
    ],
)
def test_what_operators_type(text: str) -> None:
    assert ids.parse_id(text) == KEY_7


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), ("0x12", 18), ("0xFf", 255)])
def test_small_ids(text: str, number: int) -> None:
    assert ids.parse_id(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "pub", "pub:", "pub:x", "pub:-1", "PUB:1", "cat:1", "pub:1:2", "0x", "0xg", "0x-1", "-1", "1.0"),
        *("1e9", "ff", "a" * 62, "1_000", str(2**256), "f" * 65, f"0x{'f' * 65}", "١٢", "12 13", f"pub:{2**248}"),
        *("9" * 5000, "pub:" + "9" * 5000),
    ],
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(WireError):
        ids.parse_id(text)


def test_parts_of_an_id() -> None:
    assert ids.make_id(IdType.KEY, 7) == KEY_7
    assert (ids.type_byte(KEY_7), ids.id_type(KEY_7), ids.counter(KEY_7)) == (4, IdType.KEY, 7)
    assert ids.id_type(9 << 248) is None
    assert ids.id_type(1) is None
    assert ids.short(9 << 248 | 1) == f"0x9{'0' * 61}1"
    assert ids.short(1) == "0x1"
    assert set(ids.SHORT_NAMES) == set(IdType)
    for counter in (-1, 2**248):
        with pytest.raises(WireError):
            ids.make_id(IdType.KEY, counter)


def test_byte_orders() -> None:
    assert ids.to_chain(KEY_7) == b"\4" + bytes(30) + b"\7"
    assert ids.to_db(KEY_7) == b"\7" + bytes(30) + b"\4"
    assert ids.to_core(KEY_7) == f"04{'00' * 30}07"
    for convert in (ids.to_chain, ids.to_db, ids.to_core):
        for number in (-1, 2**256):
            with pytest.raises(WireError):
                convert(number)
    for text in ("", "00", f"0x{KEY_7:064x}", f"{KEY_7:064x}0", "zz" * 32, f" {KEY_7:064x}"):
        with pytest.raises(WireError):
            ids.from_core(text)


def test_fhe_types() -> None:
    assert len(handles.FHE_TYPES) == 84
    assert [t.number for t in handles.FHE_TYPES] == list(range(84))
    assert len({t.name for t in handles.FHE_TYPES}) == 84
    assert {0, 2, 3, 4, 5, 6, 7, 8} == handles.DECRYPTABLE
    named = {n: handles.fhe_type(n).name for n in (1, 8, 11, 12, 16, 17, 24, 29, 30, 31, 33, 34, 39, 58, 59, 83)}
    assert named == {
        1: "Uint4", 8: "Uint256", 11: "Uint2048", 12: "Uint2", 16: "Uint14", 17: "Int2", 24: "Int16", 29: "Int256",
        30: "AsciiString", 31: "Int512", 33: "Int2048", 34: "Uint24", 39: "Uint80", 58: "Uint248", 59: "Int24",
        83: "Int248",
    }  # fmt: skip
    sizes = {t.name: (t.bits, t.plaintext_bytes) for t in handles.FHE_TYPES if t.decryptable}
    assert sizes == {
        "Bool": (2, 1), "Uint8": (8, 1), "Uint16": (16, 2), "Uint32": (32, 4), "Uint64": (64, 8), "Uint128": (128, 16),
        "Uint160": (160, 20), "Uint256": (256, 32),
    }  # fmt: skip
    for number in (-1, 84, 255):
        with pytest.raises(WireError, match="unknown FHE type"):
            handles.fhe_type(number)


def test_handle() -> None:
    handle = handles.Handle(b"h" * 21, 255, 2**64 - 1, 5, 0)
    raw = handle.pack()
    assert handles.parse_handle(raw) == handle
    assert (handles.chain_id_of(raw), handles.fhe_type_of(raw).name) == (2**64 - 1, "Uint64")
    with pytest.raises(WireError, match="unknown FHE type 84"):
        handles.fhe_type_of(handle._replace(fhe_type=84).pack())
    for bad in (
        handle._replace(digest=b"h"),
        handle._replace(position=256),
        handle._replace(chain_id=2**64),
        handle._replace(version=-1),
    ):
        with pytest.raises(WireError):
            bad.pack()
    for length in (0, 31, 33):
        for read in (handles.parse_handle, handles.chain_id_of, handles.fhe_type_of):
            with pytest.raises(WireError, match="32 bytes"):
                read(bytes(length))


def test_addresses() -> None:
    text = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # from EIP-55
    assert to_checksum(parse_address(text)) == text
    assert parse_address(text.lower()) == parse_address(text)
    for wrong in (
        text.swapcase().replace("0X", "0x"),
        text.upper().replace("0X", "0x"),
        text[:-1] + "D",
        text[2:],
        text + "0",
        text[:-1] + "g",
        text.replace("0x", "0X"),
        f" {text}",
        "",
        "0x" + "１" * 40,
    ):
        with pytest.raises(WireError):
            parse_address(wrong)
    for n in range(50):
        address = (n * 0x123456789ABCDEF0123456789ABCDEF01234567).to_bytes(24, "big")[-20:]
        assert to_checksum(address) == to_checksum_address(address)
    with pytest.raises(WireError):
        to_checksum(bytes(19))
