"""The Core double behaves as wire/kms-core.md 3.5 says: what kmsd is tested against must itself be right."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import core_asking as ask
import pytest
import trio

from kmsd.core import requests, results
from kmsd.core.client import GrpcCore, open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.pb.grpc.health.v1 import HealthCheckRequest
from kmsd.core.pb.kms import v1 as kms
from kmsd.core.pb.kms.v1 import CiphertextFormat
from kmsd.core.requests import Ciphertext
from kmsd.ports import CoreMethod, StatusCode
from kmsd.sandbox.ciphertexts import fake_ciphertext
from kmsd.sandbox.core_double_process import RunningDouble, running_double
from kmsd.wire.addresses import parse_address
from kmsd.wire.eip712 import Domain

PREP, KEY2, CRS, RESHARE = 3 << 248 | 1, 4 << 248 | 2, 5 << 248 | 1, 6 << 248 | 1
KG = ask.KMS_GENERATION
HANDLE = ask.HANDLES[0]


class Asked:
    """A double with a client: calls by the method's wire name give the status name."""

    def __init__(self, double: RunningDouble, core: GrpcCore) -> None:
        self.double = double
        self.core = core
        self.message: Any = None

    async def __call__(self, method: str, request: Any) -> str:
        answer = await self.core.call(self.core.shards[0], CoreMethod(method), request, deadline=20)
        self.message = answer.message
        return answer.status.name


async def _asked(*options: str) -> AsyncIterator[Asked]:
    async with running_double(*options) as double, open_core(parse_shards((double.endpoint,))) as core:
        yield Asked(double, core)


@pytest.fixture
async def threshold() -> AsyncIterator[Asked]:
    async for asked in _asked("--key", ask.KEY_TEXT, "--long-poll", "0.3", "--ceremony-ms", "20", "--latency-ms", "5"):
        yield asked


@pytest.fixture
async def centralized() -> AsyncIterator[Asked]:
    options = ("--key", ask.KEY_TEXT, "--long-poll", "0.3", "--ceremony-ms", "20", "--latency-ms", "5")
    async for asked in _asked("--flavour", "centralized", *options):
        yield asked


def _one(body: bytes, handle: bytes = HANDLE, number: int = 2) -> list[Ciphertext]:
    return [Ciphertext(handle, body, CiphertextFormat(number))]


# ---------------------------------------------------------------------------------------------------------------------
# Decryptions


async def test_unknown_and_malformed_ids_on_poll(threshold: Asked) -> None:
    for name in ("PublicDecryption", "UserDecryption", "KeyGenPreproc", "KeyGen", "CrsGen", "Resharing"):
        method = f"Get{name}Result"
        assert await threshold(method, requests.poll(9)) == "NOT_FOUND"
        assert await threshold(method, requests.poll(0)) == "INVALID_ARGUMENT"
        assert await threshold(method, bytes(kms.RequestId(request_id="01"))) == "INVALID_ARGUMENT"
        assert await threshold(method, bytes(kms.RequestId())) == "INVALID_ARGUMENT"
        assert await threshold(method, b"\xff") == "INTERNAL"


async def test_ids_in_tolerated_forms(threshold: Asked) -> None:
    assert await threshold("PublicDecrypt", ask.public(1)) == "OK"
    text = f"{ask.public_id(1):064X}"
    for form in (f" 0x{text} ", text, text.lower()):
        assert await threshold("GetPublicDecryptionResult", bytes(kms.RequestId(request_id=form))) == "OK"
    assert await threshold("GetPublicDecryptionResult", bytes(kms.RequestId(request_id="0X" + text))) != "OK"


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": None},
        {"request_id": kms.RequestId(request_id="7")},
        {"ciphertexts": []},
        {"domain": None},
        {"domain": kms.Eip712DomainMsg(verifying_contract="0x" + "ab" * 20)},
        {"key_id": None},
        {"domain": kms.Eip712DomainMsg(verifying_contract=f"0x{'5' * 40}", chain_id=bytes(33))},
        {"domain": kms.Eip712DomainMsg(verifying_contract=f"0x{'5' * 40}", salt=b"1")},
        {"context_id": kms.RequestId(request_id=f"{77:064x}")},
    ],
    ids=str,
)
async def test_invalid_public_decryptions(threshold: Asked, change: dict[str, Any]) -> None:
    message = kms.PublicDecryptionRequest.parse(b"".join(ask.public(1)))
    for name, value in change.items():
        setattr(message, name, value)
    assert await threshold("PublicDecrypt", bytes(message)) == "INVALID_ARGUMENT"
    assert await threshold("PublicDecrypt", ask.public(1)) == "OK"  # nothing was burnt, no token is held
    assert (await threshold.double.stats())["tokens_held"] <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"client_address": "0x" + "ab" * 20},
        {"client_address": "nobody"},
        {"client_address": "0x5FbDB2315678afecb367f032d93F642f64180aa3"},
        {"enc_key": b"short"},
        {"typed_ciphertexts": [kms.TypedCiphertext(ciphertext=b"x", external_handle=bytes(33))]},
    ],
    ids=str,
)
async def test_invalid_user_decryptions(threshold: Asked, change: dict[str, Any]) -> None:
    message = kms.UserDecryptionRequest.parse(b"".join(ask.user(1)))
    for name, value in change.items():
        setattr(message, name, value)
    assert await threshold("UserDecrypt", bytes(message)) == "INVALID_ARGUMENT"


async def test_unknown_context(threshold: Asked, centralized: Asked) -> None:
    message = kms.UserDecryptionRequest.parse(b"".join(ask.user(1)))
    message.context_id = kms.RequestId(request_id=f"{77:064x}")
    assert await threshold("UserDecrypt", bytes(message)) == "INTERNAL"
    assert await centralized("UserDecrypt", bytes(message)) == "NOT_FOUND"


async def test_unknown_key_burns_the_id_at_a_threshold_core(threshold: Asked, centralized: Asked) -> None:
    assert await threshold("PublicDecrypt", ask.public(1, key_id=9)) == "NOT_FOUND"
    assert await threshold("PublicDecrypt", ask.public(1)) == "ALREADY_EXISTS"
    assert await threshold("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "UNAVAILABLE"
    assert await centralized("PublicDecrypt", ask.public(1, key_id=9)) == "NOT_FOUND"
    assert await centralized("PublicDecrypt", ask.public(1)) == "OK"


async def test_rate_limit_comes_first_even_for_duplicates(threshold: Asked) -> None:
    assert await threshold("PublicDecrypt", ask.public(1)) == "OK"
    await threshold.double.settings(rate_tokens=0)
    assert await threshold("PublicDecrypt", ask.public(1)) == "RESOURCE_EXHAUSTED"
    assert await threshold("PublicDecrypt", ask.public(2, ciphertexts=[])) == "RESOURCE_EXHAUSTED"
    await threshold.double.settings(rate_tokens=50_000)
    assert await threshold("PublicDecrypt", ask.public(1)) == "ALREADY_EXISTS"


async def test_full_store_is_aborted_and_finished_ones_are_evicted() -> None:
    options = ("--key", ask.KEY_TEXT, "--dec-capacity", "4", "--min-dec-cache", "2", "--long-poll", "5")
    async for asked in _asked(*options, "--latency-ms", "60000"):
        for number in range(4):
            assert await asked("PublicDecrypt", ask.public(number)) == "OK"
        assert await asked("PublicDecrypt", ask.public(9)) == "ABORTED"
        assert await asked("UserDecrypt", ask.user(9)) == "OK"  # a store of its own
    async for asked in _asked(*options, "--latency-ms", "1"):
        for number in range(4):
            assert await asked("PublicDecrypt", ask.public(number)) == "OK"
            assert await asked("GetPublicDecryptionResult", requests.poll(ask.public_id(number))) == "OK"
        assert await asked("PublicDecrypt", ask.public(9)) == "OK"
        assert await asked("GetPublicDecryptionResult", requests.poll(ask.public_id(0))) == "NOT_FOUND"
        assert await asked("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "OK"


@pytest.mark.parametrize(
    "ciphertexts",
    [
        _one(b"garbage"),
        _one(b""),
        _one(fake_ciphertext(HANDLE, 5, 100), number=3),
        _one(fake_ciphertext(HANDLE, 5, 100), HANDLE[:30] + b"\x01\0"),
        _one(fake_ciphertext(HANDLE, 5, 100), HANDLE[:30] + b"\x63\0"),
        _one(fake_ciphertext(HANDLE, 5, 100), HANDLE[:30] + b"\0\0"),
        _one(fake_ciphertext(HANDLE, 5, 100)) + _one(b"garbage"),
    ],
    ids=["garbage", "empty", "format", "type 1", "type 99", "u64 as bool", "one of two"],
)
async def test_bad_ciphertexts_are_taken_and_fail_on_poll(threshold: Asked, ciphertexts: list[Ciphertext]) -> None:
    assert await threshold("PublicDecrypt", ask.public(1, ciphertexts=ciphertexts)) == "OK"
    assert await threshold("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "INTERNAL"
    assert await threshold("PublicDecrypt", ask.public(1)) == "ALREADY_EXISTS"


async def test_a_narrower_type_truncates_without_an_error(threshold: Asked) -> None:
    narrow = HANDLE[:30] + b"\x02\0"
    body = fake_ciphertext(HANDLE, 0x1234, 100)
    assert await threshold("PublicDecrypt", ask.public(1, ciphertexts=_one(body, narrow))) == "OK"
    assert await threshold("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "OK"
    assert threshold.message.payload.plaintexts == [kms.TypedPlaintext(bytes=b"\x34", fhe_type=2)]


async def test_running_decryptions_can_be_made_to_fail(threshold: Asked) -> None:
    await threshold.double.settings(latency_ms=60_000)
    assert await threshold("UserDecrypt", ask.user(1)) == "OK"
    await threshold.double.fault(fail_running=True)
    assert await threshold("GetUserDecryptionResult", requests.poll(ask.user_id(1))) == "INTERNAL"


async def test_a_committee_agrees_on_plaintexts_and_signs_apart() -> None:
    found = []
    for party in ("1", "2"):
        options = ("--key", ask.KEY_TEXT, "--party-id", party, "--signing-key", party.zfill(64))
        async for asked in _asked(*options, "--latency-ms", "1"):
            await asked("PublicDecrypt", ask.public(1))
            await asked("GetPublicDecryptionResult", requests.poll(ask.public_id(1)))
            found.append(ask.check_public(asked.message, 1, asked.double.signer))
    assert found[0].fields["decrypted_result"] == found[1].fields["decrypted_result"]
    assert found[0].signer != found[1].signer


# ---------------------------------------------------------------------------------------------------------------------
# Ceremonies


async def _keygen(asked: Asked, prep: int = PREP, key: int = KEY2) -> None:
    assert await asked("KeyGenPreproc", requests.key_gen_preproc(prep, 0, KG)) == "OK"
    assert await asked("GetKeyGenPreprocResult", requests.poll(prep)) == "OK"
    assert await asked("KeyGen", requests.key_gen(key, prep, KG)) == "OK"
    assert await asked("GetKeyGenResult", requests.poll(key)) == "OK"


async def test_ceremonies_in_their_order(threshold: Asked) -> None:
    known: dict[str, Any] = {"domain": KG, "expected_signer": parse_address(threshold.double.signer)}
    preproc = requests.key_gen_preproc(PREP, 0, KG)
    assert await threshold("KeyGenPreproc", preproc) == "NOT_FOUND"  # no PRSS, no epoch
    assert (await threshold.core.health(threshold.core.shards[0])).message.status.name == "NOT_SERVING"
    assert await threshold("Init", requests.init()) == "OK"
    assert await threshold("Init", requests.init()) == "ALREADY_EXISTS"
    assert (await threshold.core.health(threshold.core.shards[0])).message.status.name == "SERVING"

    assert await threshold("KeyGenPreproc", preproc) == "OK"
    assert await threshold("KeyGenPreproc", preproc) == "ALREADY_EXISTS"
    assert await threshold("GetKeyGenPreprocResult", requests.poll(PREP)) == "OK"
    results.prep_keygen(threshold.message, prep_keygen_id=PREP, **known)

    keygen = requests.key_gen(KEY2, PREP, KG)
    assert await threshold("KeyGen", requests.key_gen(KEY2, PREP + 1, KG)) == "NOT_FOUND"  # unknown preparation
    assert await threshold("KeyGen", keygen) == "OK"
    assert await threshold("GetKeyGenPreprocResult", requests.poll(PREP)) == "NOT_FOUND"  # consumed
    assert await threshold("KeyGen", keygen) == "ALREADY_EXISTS"
    assert await threshold("GetKeyGenResult", requests.poll(KEY2)) == "OK"
    digests = results.keygen(threshold.message, key_id=KEY2, prep_keygen_id=PREP, **known).fields["key_digests"]
    assert await threshold("PublicDecrypt", ask.public(1, key_id=KEY2)) == "OK"

    assert await threshold("CrsGen", requests.crs_gen(CRS, 2048, 0, KG)) == "OK"
    assert await threshold("GetCrsGenResult", requests.poll(CRS)) == "OK"
    results.crsgen(threshold.message, crs_id=CRS, max_bit_length=2048, **known)

    reshare = requests.initiate_resharing(RESHARE, KEY2, PREP, 0, KG, ())
    assert await threshold("InitiateResharing", reshare) == "INTERNAL"  # no digests
    reshare = requests.initiate_resharing(RESHARE, KEY2, PREP, 0, KG, digests)
    assert await threshold("InitiateResharing", reshare) == "OK"
    assert await threshold("InitiateResharing", reshare) == "INTERNAL"
    assert await threshold("GetResharingResult", requests.poll(RESHARE)) == "OK"
    results.resharing(threshold.message, key_reshare_id=RESHARE, key_id=KEY2, prep_keygen_id=PREP, **known)
    assert (await threshold.double.stats())["tokens_held"] == 0


async def test_a_consumed_preparation_sent_again(threshold: Asked, centralized: Asked) -> None:
    assert await threshold("Init", requests.init()) == "OK"
    await _keygen(threshold)
    preproc = requests.key_gen_preproc(PREP, 0, KG)
    assert await threshold("KeyGenPreproc", preproc) == "ABORTED"
    assert await threshold("KeyGenPreproc", preproc) == "ALREADY_EXISTS"  # burnt
    assert await threshold("GetKeyGenPreprocResult", requests.poll(PREP)) == "UNAVAILABLE"
    await _keygen(centralized)
    assert await centralized("KeyGenPreproc", preproc) == "OK"


async def test_keygen_waits_for_its_running_preparation() -> None:
    async for asked in _asked("--long-poll", "0.2", "--ceremony-ms", "60000"):
        assert await asked("Init", requests.init()) == "OK"
        assert await asked("KeyGenPreproc", requests.key_gen_preproc(PREP, 0, KG)) == "OK"
        began = trio.current_time()
        assert await asked("KeyGen", requests.key_gen(KEY2, PREP, KG)) == "UNAVAILABLE"
        assert trio.current_time() - began >= 0.2
        assert await asked("GetKeyGenResult", requests.poll(KEY2)) == "NOT_FOUND"


async def test_ceremony_arguments(threshold: Asked, centralized: Asked) -> None:
    assert await threshold("Init", requests.init()) == "OK"
    for bits in (0, 3, 4096):
        assert await threshold("CrsGen", requests.crs_gen(CRS, bits, 0, KG)) == "INVALID_ARGUMENT"
    assert await threshold("CrsGen", requests.crs_gen(CRS, 1, 1, KG)) == "OK"
    assert await threshold("GetCrsGenResult", requests.poll(CRS)) == "OK"
    assert threshold.message.max_num_bits == 4
    message = kms.KeyGenPreprocRequest.parse(requests.key_gen_preproc(PREP, 0, KG))
    message.params = kms.FheParameter(2)
    assert await threshold("KeyGenPreproc", bytes(message)) == "INVALID_ARGUMENT"
    assert await threshold("KeyGenPreproc", requests.key_gen_preproc(PREP, 0, KG)) == "OK"
    assert await centralized("KeyGenPreproc", bytes(message)) == "INVALID_ARGUMENT"
    assert await centralized("KeyGenPreproc", requests.key_gen_preproc(PREP, 0, KG)) == "ALREADY_EXISTS"  # burnt
    wrong = Domain("KMSGeneration", "1", 54321, b"\xab" * 20)
    bad = kms.CrsGenRequest.parse(requests.crs_gen(CRS + 1, 4, 0, wrong))
    assert bad.domain is not None
    bad.domain.verifying_contract = bad.domain.verifying_contract.lower()
    assert await threshold("CrsGen", bytes(bad)) == "INVALID_ARGUMENT"


async def test_tokens_of_ceremonies() -> None:
    async for asked in _asked("--rate-tokens", "25099", "--ceremony-ms", "60000"):
        assert await asked("Init", requests.init()) == "OK"
        assert await asked("KeyGenPreproc", requests.key_gen_preproc(PREP, 0, KG)) == "OK"
        assert await asked("KeyGenPreproc", requests.key_gen_preproc(PREP + 1, 0, KG)) == "RESOURCE_EXHAUSTED"
        assert await asked("CrsGen", requests.crs_gen(CRS, 4, 0, KG)) == "RESOURCE_EXHAUSTED"


async def test_a_centralized_core(centralized: Asked) -> None:
    assert (await centralized.core.health(centralized.core.shards[0])).message.status.name == "SERVING"
    assert await centralized("Init", requests.init()) == "OK"
    assert await centralized("Init", requests.init()) == "ALREADY_EXISTS"
    await _keygen(centralized)
    reshare = requests.initiate_resharing(RESHARE, KEY2, PREP, 0, KG, ask.DIGESTS)
    assert await centralized("InitiateResharing", reshare) == "CANCELLED"
    assert await centralized("UserDecrypt", ask.user(1)) == "OK"
    assert await centralized("GetUserDecryptionResult", requests.poll(ask.user_id(1))) == "OK"
    payload = centralized.message.payload
    assert (payload.party_id, payload.degree) == (1, 0)
    ask.check_user(centralized.message, centralized.double.signer)


# ---------------------------------------------------------------------------------------------------------------------
# Restarts


@pytest.mark.parametrize("flavour", ["threshold", "centralized"])
async def test_what_a_restart_forgets(tmp_path: Path, flavour: str) -> None:
    options = (
        "--flavour",
        flavour,
        "--state",
        str(tmp_path / "state.json"),
        "--long-poll",
        "0.2",
        "--ceremony-ms",
        "1",
    )
    async for asked in _asked(*options):
        assert await asked("Init", requests.init()) == "OK"
        await _keygen(asked)
        assert await asked("KeyGenPreproc", requests.key_gen_preproc(PREP + 1, 0, KG)) == "OK"
        assert await asked("CrsGen", requests.crs_gen(CRS, 2048, 0, KG)) == "OK"
        assert await asked("GetCrsGenResult", requests.poll(CRS)) == "OK"
        crs = asked.message
        assert await asked("PublicDecrypt", ask.public(1, key_id=KEY2)) == "OK"
        assert await asked("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "OK"
        await asked.double.kill()
    threshold = flavour == "threshold"
    async for asked in _asked(*options):
        health = (await asked.core.health(asked.core.shards[0])).message.status.name
        assert health == ("NOT_SERVING" if threshold else "SERVING")
        assert await asked("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "NOT_FOUND"
        assert await asked("GetKeyGenPreprocResult", requests.poll(PREP + 1)) == "NOT_FOUND"
        assert await asked("GetKeyGenResult", requests.poll(KEY2)) == ("OK" if threshold else "NOT_FOUND")
        assert await asked("GetCrsGenResult", requests.poll(CRS)) == "OK"
        assert asked.message == crs
        assert await asked("PublicDecrypt", ask.public(1, key_id=KEY2)) == "OK"  # the key is still there
        assert await asked("Init", requests.init()) == ("ALREADY_EXISTS" if threshold else "OK")
        answer = await asked.core.key_availability(asked.core.shards[0])
        assert answer.message.fhe_key_ids == [f"{KEY2:064x}"]
        if not threshold:  # the same key with a new preparation: taken, then INTERNAL
            assert await asked("KeyGenPreproc", requests.key_gen_preproc(PREP + 2, 0, KG)) == "OK"
            assert await asked("KeyGen", requests.key_gen(KEY2, PREP + 2, KG)) == "OK"
            assert await asked("GetKeyGenResult", requests.poll(KEY2)) == "INTERNAL"


async def test_forget_is_a_restart_without_one(threshold: Asked) -> None:
    assert await threshold("PublicDecrypt", ask.public(1)) == "OK"
    await threshold.double.fault(forget=True)
    assert await threshold("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "NOT_FOUND"
    assert await threshold("PublicDecrypt", ask.public(1)) == "OK"
    assert await threshold("GetPublicDecryptionResult", requests.poll(ask.public_id(1))) == "OK"
    assert (await threshold.double.stats())["tokens_held"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Health, faults, transport


async def test_health_of_an_unknown_service(threshold: Asked) -> None:
    assert await threshold("Check", bytes(HealthCheckRequest(service="nobody"))) == "NOT_FOUND"
    assert await threshold("Check", b"") == "OK"


async def test_burn(threshold: Asked) -> None:
    await threshold.double.fault(method="UserDecrypt", burn="INTERNAL")
    assert await threshold("UserDecrypt", ask.user(1)) == "INTERNAL"
    assert await threshold("UserDecrypt", ask.user(1)) == "ALREADY_EXISTS"
    assert await threshold("GetUserDecryptionResult", requests.poll(ask.user_id(1))) == "UNAVAILABLE"


async def test_faults_are_counted_and_reset(threshold: Asked) -> None:
    await threshold.double.fault(method="*", status="DATA_LOSS", count=-1)
    for _ in range(3):
        assert await threshold("Check", b"") == "DATA_LOSS"
    await threshold.double.fault(reset=True)
    assert await threshold("Check", b"") == "OK"
    with pytest.raises(Exception, match="400"):
        await threshold.double.fault(method="Check", status="NO_SUCH")


async def test_undecodable_and_oversize_requests(threshold: Asked) -> None:
    assert await threshold("PublicDecrypt", b"\xff\xff\xff") == "INTERNAL"
    answer = await threshold.core.call(
        threshold.core.shards[0], CoreMethod.PUBLIC_DECRYPT, [bytes(104_857_601)], deadline=20
    )
    assert answer.status is StatusCode.OUT_OF_RANGE
