"""Whatever comes in, a decoder gives a record or a WireError, soon, and no larger than its input allows."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from wire_strategies import ADDRESSES, WORDS, Fuzz, accidents, content_bytes, mutated, values

from kmsd.wire import abi, addresses, handles, ids, otlp, plaintexts, reverts, shares, signatures
from kmsd.wire.abi import AbiType
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11 import calls, events, views
from kmsd.wire.v0_11.errors import ERRORS, RevertReason, decode_revert

pytestmark = pytest.mark.fuzz

VECTORS = Path(__file__).parent.parent / "vectors"


class Log(NamedTuple):
    topics: tuple[bytes, ...]
    data: bytes


def survives(decode: Callable[[Any], Any], given: Any, size: int) -> Any:
    """Decode `given` of `size` bytes; None for a WireError. Fails for a slow decoder or too large a result."""
    start = time.perf_counter()
    try:
        result = decode(given)
    except WireError:
        result = None
    assert time.perf_counter() - start < 5
    # Each of the at most 4 × size bytes of arrays may be the 32-byte offset of a struct of a few words.
    assert content_bytes(result) <= 64 * size + 4096
    return result


def valid(abi_type: AbiType[Any]) -> st.SearchStrategy[bytes]:
    return values(abi_type.name).map(lambda value: abi.parse_type(abi_type.name).write(value))


EVENT_LOGS = st.sampled_from(events.EVENTS).flatmap(
    lambda event: st.builds(
        Log,
        st.one_of(
            st.tuples(st.just(event.topic), *(WORDS for _ in event.indexed)),
            st.lists(st.one_of(st.just(event.topic), WORDS, st.binary(max_size=40)), max_size=5).map(tuple),
        ),
        st.one_of(mutated(valid(event.fields)), st.binary(max_size=600)),
    )
)


def test_events(fuzz: Fuzz) -> None:
    def check(log: Log) -> None:
        record = survives(events.decode, log, sum(map(len, log.topics)) + len(log.data))
        if record is not None:
            # What was read can be written, and reads the same again.
            topics, data = events.encode(record)
            assert events.decode(Log(topics, data)) == record or b"\xef\xbf\xbd" in data
            assert len(events.content_hash(record)) == 32

    fuzz(EVENT_LOGS, check)


CALLDATA = st.sampled_from(list(calls.FUNCTIONS.values())).flatmap(
    lambda function: st.one_of(
        mutated(valid(function.arguments)).map(lambda data: function.selector + data),
        mutated(valid(function.arguments).map(lambda data: function.selector + data)),
        st.binary(max_size=600),
    )
)


def test_calls(fuzz: Fuzz) -> None:
    def check(calldata: bytes) -> None:
        found = survives(calls.decode_call, calldata, len(calldata))
        request = survives(calls.decode_user_request, calldata, len(calldata))
        assert request is None or found[1] == request
        if found:
            function = calls.FUNCTIONS[calldata[:4]]
            assert function.decode(function.encode(*found[1])) == found[1]

    fuzz(CALLDATA, check)


VIEW_RETURNS = st.sampled_from(list(views.VIEWS.values())).flatmap(
    lambda function: st.tuples(st.just(function), st.one_of(mutated(valid(function.returns)), st.binary(max_size=400)))
)


def test_view_returns(fuzz: Fuzz) -> None:
    def check(given: tuple[Any, bytes]) -> None:
        function, data = given
        survives(function.decode_return, data, len(data))

    fuzz(VIEW_RETURNS, check)


REVERTS = st.sampled_from(list(ERRORS.values())).flatmap(
    lambda error: st.one_of(
        mutated(valid(error.arguments)).map(lambda data: error.selector + data), st.binary(max_size=200)
    )
)


def test_reverts_always_have_a_reason(fuzz: Fuzz) -> None:
    def check(data: bytes) -> None:
        reason = survives(decode_revert, data, len(data))
        assert isinstance(reason, RevertReason)
        text = str(reason)
        assert text.isascii() or "…" in text
        assert text.isprintable()
        assert len(text) < 1500
        assert reason.revert_class is not None

    fuzz(REVERTS, check)


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(max_size=20),
        st.binary(max_size=80).map(lambda b: f"0x{b.hex()}"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(("data", "error", "return", "code")), st.text(max_size=6)), inner),
    ),
    max_leaves=20,
)


def test_revert_data_anywhere(fuzz: Fuzz) -> None:
    def check(error: Any) -> None:
        found = survives(reverts.find_revert_data, error, len(json.dumps(error)))
        assert found is None or isinstance(found, bytes)

    fuzz(JSON_VALUES, check)


U32 = st.integers(0, 2**32 - 1)
SHARE_PAYLOADS = st.builds(
    shares.SharePayload,
    st.binary(max_size=60),
    WORDS,
    st.lists(
        st.builds(shares.SigncryptedCiphertext, st.integers(-(2**31), 2**31 - 1), st.binary(max_size=90), WORDS, U32),
        max_size=4,
    ).map(tuple),
    U32,
    U32,
)


def test_shares(fuzz: Fuzz) -> None:
    def check(data: bytes) -> None:
        payload = survives(shares.decode, data, len(data))
        assert payload is None or shares.encode(payload) == data

    fuzz(st.one_of(mutated(SHARE_PAYLOADS.map(shares.encode), word=8), st.binary(max_size=400)), check)


def test_shares_there_and_back(fuzz: Fuzz) -> None:
    def check(payload: shares.SharePayload) -> None:
        assert shares.decode(shares.encode(payload)) == payload

    fuzz(SHARE_PAYLOADS, check)


CARRIERS = st.dictionaries(st.text(max_size=30), st.text(max_size=60), max_size=5)


def test_otlp_context(fuzz: Fuzz) -> None:
    def check(given: tuple[dict[str, str], bytes]) -> None:
        carrier, data = given
        assert otlp.decode(otlp.encode(carrier)) == carrier
        found = survives(otlp.decode, data, len(data))
        assert found is None or otlp.encode(found) == data

    fuzz(st.tuples(CARRIERS, st.one_of(mutated(CARRIERS.map(otlp.encode), word=8), st.binary(max_size=200))), check)


def test_plaintexts(fuzz: Fuzz) -> None:
    def check(given: tuple[bytes, list[int]]) -> None:
        data, types = given
        found = survives(lambda _: plaintexts.decode(data, types), given, len(data))
        assert found is None or plaintexts.encode(found) == data

    words = st.lists(
        st.one_of(WORDS, st.integers(0, 2**64).map(lambda n: n.to_bytes(32, "big")), st.binary(max_size=33)), max_size=5
    ).map(b"".join)
    fuzz(st.tuples(words, st.lists(st.one_of(st.sampled_from((0, 2, 5, 8)), st.integers(-5, 300)), max_size=5)), check)


ID_TEXTS = st.one_of(
    st.text(max_size=100),
    st.text("0123456789abcdefABCDEFxX: ", max_size=100),
    st.integers(0, 2**260).map(str),
    st.integers(0, 2**260).map(hex),
    st.integers(0, 2**256 - 1).map(ids.to_core),
    st.tuples(st.sampled_from([*ids.SHORT_NAMES.values(), "pu", ""]), st.integers(0, 2**260)).map(
        lambda parts: f"{parts[0]}:{parts[1]}"
    ),
)


def test_texts_of_operators(fuzz: Fuzz) -> None:
    def check(text: str) -> None:
        for parse in (ids.parse_id, ids.from_core):
            found = survives(parse, text, len(text))
            assert found is None or 0 <= found < 2**256
        found = survives(addresses.parse_address, text, len(text))
        assert found is None or len(found) == 20
        survives(abi.parse_type, text, 64 * len(text))

    fuzz(st.one_of(ID_TEXTS, ADDRESSES.map(addresses.to_checksum), st.text("(),[]uint256 bytes", max_size=80)), check)


def test_ids_there_and_back(fuzz: Fuzz) -> None:
    def check(number: int) -> None:
        assert ids.from_chain(ids.to_chain(number)) == number
        assert ids.from_db(ids.to_db(number)) == number
        assert ids.to_db(number) == ids.to_chain(number)[::-1]
        assert ids.from_core(ids.to_core(number)) == number
        for text in (ids.short(number), hex(number), ids.to_core(number), f"0x{ids.to_core(number)}"):
            assert ids.parse_id(text) == number

    fuzz(st.one_of(st.integers(0, 2**256 - 1), st.integers(1, 9).map(lambda t: t << 248 | 12)), check)


def test_short_binaries(fuzz: Fuzz) -> None:
    def check(data: bytes) -> None:
        for decode in (
            ids.from_chain,
            ids.from_db,
            handles.parse_handle,
            handles.chain_id_of,
            handles.fhe_type_of,
            addresses.to_checksum,
            signatures.address_of_public_key,
            signatures.address_of,
            lambda d: signatures.recover(d, data),
            lambda d: signatures.recover(bytes(32), d),
            lambda d: signatures.sign(d, bytes(31) + b"\1"),
        ):
            survives(decode, data, len(data))

    lengths = st.sampled_from((20, 32, 33, 64, 65, 66))
    signature = st.tuples(WORDS, WORDS, st.sampled_from((0, 1, 26, 27, 28, 29))).map(
        lambda p: p[0] + p[1] + bytes(p[2:])
    )
    fuzz(
        st.one_of(st.binary(max_size=70), lengths.flatmap(lambda n: st.binary(min_size=n, max_size=n)), signature),
        check,
    )


GATEWAY = json.loads((VECTORS / "gateway.json").read_text())["v0.11"]
KMS_CORE = json.loads((VECTORS / "kms-core.json").read_text())


def golden() -> list[tuple[Callable[[bytes], Any], bytes, int]]:
    """Decoder, bytes and size of a word of every golden vector, each log with its right topics."""
    found: list[tuple[Callable[[bytes], Any], bytes, int]] = []
    for log in GATEWAY["events"].values():
        topics = tuple(bytes.fromhex(topic[2:]) for topic in log["topics"])
        found.append((lambda data, topics=topics: events.decode(Log(topics, data)), bytes.fromhex(log["data"][2:]), 32))
    for call in GATEWAY["calls"].values():
        function = calls.FUNCTIONS[bytes.fromhex(call["selector"][2:])]
        selector, data = function.selector, bytes.fromhex(call["calldata"][10:])
        found.append((lambda data, selector=selector: calls.decode_call(selector + data), data, 32))
    for view in GATEWAY["views"].values():
        function = views.VIEWS[bytes.fromhex(view["selector"][2:])]
        found.append((function.decode_return, bytes.fromhex(view["returndata"][2:]), 32))
    for share in KMS_CORE["user_decrypted_share"]["samples"]:
        found.append((shares.decode, bytes.fromhex(share["hex"]), 8))
    return found


def test_golden_bytes_damaged_at_speed(fuzz: Fuzz) -> None:
    """Hypothesis draws seeds; each is ten rounds of accidents to every golden vector."""
    seeds = golden()
    assert len(seeds) == 17 + 15 + 8 + 3

    def check(seed: int) -> None:
        chance = Random(seed)
        for decode, data, word in seeds:
            for _ in range(10):
                damaged = accidents(data, chance, word)
                survives(decode, damaged, len(damaged))

    fuzz(st.integers(0, 2**64 - 1), check)
