"""Every spoiler of the Core double, over the wire, is a rejected result (WK6): never stored, never an exception."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import core_asking as ask
import pytest

from kmsd.core import requests, results
from kmsd.core.client import GrpcCore, open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.results import Result, ResultRejected
from kmsd.ports import CoreMethod, StatusCode
from kmsd.sandbox.core_double_faults import SPOILERS
from kmsd.sandbox.core_double_process import RunningDouble, running_double
from kmsd.wire.addresses import parse_address

pytestmark = pytest.mark.guarantee("WK6")

PREP, KEY2, CRS, RESHARE = 3 << 248 | 1, 4 << 248 | 2, 5 << 248 | 1, 6 << 248 | 1
PUBLIC, USER = CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, CoreMethod.GET_USER_DECRYPTION_RESULT
PREPROC, KEYGEN = CoreMethod.GET_KEY_GEN_PREPROC_RESULT, CoreMethod.GET_KEY_GEN_RESULT
CRSGEN, RESHARING = CoreMethod.GET_CRS_GEN_RESULT, CoreMethod.GET_RESHARING_RESULT

APPLIES: dict[str, tuple[CoreMethod, ...]] = {
    "wrong request id": (PUBLIC, PREPROC, KEYGEN, CRSGEN, RESHARING),
    "extra value": (PUBLIC, USER, KEYGEN, RESHARING),
    "missing value": (PUBLIC, USER, KEYGEN, RESHARING),
    "wrong handle order": (PUBLIC, USER, KEYGEN, RESHARING),
    "wrong handle": (USER,),
    "unknown type": (PUBLIC, USER, KEYGEN, RESHARING),
    "wide plaintext": (PUBLIC,),
    "corrupt digest": (USER, KEYGEN, CRSGEN, RESHARING),
    "wrong bits": (CRSGEN,),
    "nonsense party": (USER,),
    "no payload": (PUBLIC, USER),
    "foreign extra data": (PUBLIC, USER),
    "bad signature": (PUBLIC, USER, PREPROC, KEYGEN, CRSGEN, RESHARING),
    "short signature": (PUBLIC, USER, PREPROC, KEYGEN, CRSGEN, RESHARING),
    "wrong signer": (PUBLIC, USER, PREPROC, KEYGEN, CRSGEN, RESHARING),
}


@pytest.fixture
async def double() -> AsyncIterator[RunningDouble]:
    async with running_double("--key", ask.KEY_TEXT, "--latency-ms", "1", "--ceremony-ms", "1") as running:
        yield running


@pytest.fixture
async def core(double: RunningDouble) -> AsyncIterator[GrpcCore]:
    async with open_core(parse_shards((double.endpoint,))) as opened:
        yield opened


def test_every_spoiler_is_tried() -> None:
    assert set(APPLIES) == set(SPOILERS)


async def test_spoilt_results_are_rejected_and_the_next_ones_accepted(double: RunningDouble, core: GrpcCore) -> None:
    shard = core.shards[0]
    kg = ask.KMS_GENERATION
    known: dict[str, Any] = {"domain": kg, "expected_signer": parse_address(double.signer)}
    checks: dict[CoreMethod, tuple[int, Callable[[Any], Result]]] = {
        PUBLIC: (ask.public_id(1), lambda reply: ask.check_public(reply, 1, double.signer)),
        USER: (ask.user_id(1), lambda reply: ask.check_user(reply, double.signer)),
        PREPROC: (PREP + 1, lambda reply: results.prep_keygen(reply, prep_keygen_id=PREP + 1, **known)),
        KEYGEN: (KEY2, lambda reply: results.keygen(reply, key_id=KEY2, prep_keygen_id=PREP, **known)),
        CRSGEN: (CRS, lambda reply: results.crsgen(reply, crs_id=CRS, max_bit_length=2048, **known)),
        RESHARING: (
            RESHARE,
            lambda reply: results.resharing(reply, key_reshare_id=RESHARE, key_id=KEY2, prep_keygen_id=PREP, **known),
        ),
    }
    for method, request in (
        (CoreMethod.INIT, requests.init()),
        (CoreMethod.PUBLIC_DECRYPT, ask.public(1)),
        (CoreMethod.USER_DECRYPT, ask.user(1)),
        (CoreMethod.KEY_GEN_PREPROC, requests.key_gen_preproc(PREP, 0, kg)),
        (CoreMethod.KEY_GEN, requests.key_gen(KEY2, PREP, kg)),
        (CoreMethod.KEY_GEN_PREPROC, requests.key_gen_preproc(PREP + 1, 0, kg)),
        (CoreMethod.CRS_GEN, requests.crs_gen(CRS, 2048, 0, kg)),
        (CoreMethod.INITIATE_RESHARING, requests.initiate_resharing(RESHARE, KEY2, PREP, 0, kg, ask.DIGESTS)),
    ):
        assert (await core.call(shard, method, request, deadline=20)).status is StatusCode.OK, method
    for spoiler, methods in APPLIES.items():
        for method in methods:
            number, check = checks[method]
            await double.fault(method=method.value, result=spoiler)
            answer = await core.call(shard, method, requests.poll(number), deadline=20)
            assert answer.status is StatusCode.OK
            with pytest.raises(ResultRejected):
                check(answer.message)
            answer = await core.call(shard, method, requests.poll(number), deadline=20)
            check(answer.message)
