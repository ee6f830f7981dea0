"""Ceremonies through the whole worker: each kind, every transition, and what nobody but an operator may give up."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from worker_world import KEY_ID, KMS_GENERATION, PREP_ID, USER, Entry, Row, World

from kmsd.core.pb.kms import v1 as kms
from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.ports import CoreMethod, KeyAllowance, StatusCode
from kmsd.sandbox.core_double_results import key_digests
from kmsd.wire.eip712 import Domain
from kmsd.wire.v0_11 import views
from kmsd.working.hands import CEREMONY_ROOM

KINDS: dict[Kind, Callable[[World], Row]] = {
    Kind.PREP_KEYGEN: lambda world: world.prep(),
    Kind.KEYGEN: lambda world: _keygen_alone(world),
    Kind.CRSGEN: lambda world: world.crsgen(),
    Kind.PRSS_INIT: lambda world: world.prss(),
    Kind.KEY_RESHARE: lambda world: world.reshare(),
}
FIELDS = {
    Kind.PREP_KEYGEN: {"signature"},
    Kind.KEYGEN: {"key_digests", "signature"},
    Kind.CRSGEN: {"crs_digest", "signature"},
}
DOMAIN = Domain("KMSGeneration", "1", 123456, KMS_GENERATION)
GET_PREP, GET_KEY = CoreMethod.GET_KEY_GEN_PREPROC_RESULT, CoreMethod.GET_KEY_GEN_RESULT
RESHARE, GET_RESHARE = CoreMethod.INITIATE_RESHARING, CoreMethod.GET_RESHARING_RESULT
BURNING = [StatusCode.NOT_FOUND, StatusCode.ABORTED, StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL]


def _keygen_alone(world: World) -> Row:
    """A keygen whose preparation is at the Core, and of which there is no row here."""
    _prepared(world)
    return world.keygen()


def _prepared(world: World, core: int = 0) -> None:
    endpoint = world.core.shards[core].endpoint
    world.core.entries[endpoint, Kind.PREP_KEYGEN, PREP_ID] = Entry(
        0.0, world.core.signer.preproc_result(PREP_ID, DOMAIN)
    )


def _quiet_world() -> World:
    """A world in which hours pass cheaply: nobody looks for decryptions every second."""
    return World(db_fast_event_polling=300.0)


def _words(row: Row) -> str:
    return row.last_error or ""


def _alerts(world: World) -> str:
    return " | ".join(alert.words for alert in world.health.alerts)


# ---------------------------------------------------------------------------------------------------------------------
# The good way


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
async def test_each_kind_is_sent_once_and_completed(autojump_clock: MockClock, kind: Kind) -> None:
    world = World()
    row = KINDS[kind](world)
    async with world.running():
        await world.until_settled()
    assert row.status == "completed", row.last_error
    assert world.core.sends(kind) == [row.id]
    assert set(row.fields or ()) == FIELDS.get(kind, set())
    assert world.health.alerts == ()
    if OPERATIONS[kind].response is not None:
        assert await world.wakeups.responses[kind].wait(0.0), "the sender is woken"


@pytest.mark.guarantee("WK3")
async def test_sends_that_may_take_minutes_have_that_deadline_and_the_others_theirs(autojump_clock: MockClock) -> None:
    world = World()
    for make in KINDS.values():
        make(world)
    deadlines: dict[CoreMethod, float] = {}
    original = world.core.call

    async def noting(shard: Any, method: CoreMethod, request: Any, *, deadline: float) -> Any:
        deadlines[method] = deadline
        return await original(shard, method, request, deadline=deadline)

    world.core.call = noting  # type: ignore[method-assign]
    async with world.running():
        await world.until_settled()
    settings = world.settings
    for kind in KINDS:
        operation = OPERATIONS[kind]
        long = kind in (Kind.PRSS_INIT, Kind.KEY_RESHARE)
        assert deadlines[operation.send] == (settings.core_ceremony_timeout if long else settings.core_send_timeout)
        if operation.poll is not None:
            assert deadlines[operation.poll] == settings.core_poll_timeout


async def test_a_repeated_prss_init_is_completed_with_a_note(autojump_clock: MockClock) -> None:
    world = World()
    row = world.prss()
    world.core.overrides[CoreMethod.INIT].append(StatusCode.ALREADY_EXISTS)
    async with world.running():
        await world.until_settled()
    assert (row.status, row.note) == ("completed", "the Core had done it before")


# ---------------------------------------------------------------------------------------------------------------------
# Order (QU4)


@pytest.mark.guarantee("QU4")
async def test_sends_go_in_chain_order_and_polls_side_by_side(autojump_clock: MockClock) -> None:
    world = World()
    rows = [world.crsgen(3, block_number=103), world.crsgen(1, block_number=101), world.crsgen(2, block_number=102)]
    world.core.ceremony = 300.0
    async with world.running():
        await world.until(lambda: world.core.open[CoreMethod.GET_CRS_GEN_RESULT] == 3, 30.0)
        await world.until_settled()
    assert world.core.sends() == [rows[1].id, rows[2].id, rows[0].id]


@pytest.mark.guarantee("QU4")
async def test_one_send_at_a_time(autojump_clock: MockClock) -> None:
    """While the first send is not answered, the second ceremony stays where it is."""
    world = World()
    first, second = world.crsgen(1, block_number=101), world.crsgen(2, block_number=102)
    original = world.core.call
    answering = trio.Event()

    async def slow(shard: Any, method: CoreMethod, request: Any, *, deadline: float) -> Any:
        if method is CoreMethod.CRS_GEN and not answering.is_set():
            await answering.wait()
        return await original(shard, method, request, deadline=deadline)

    world.core.call = slow  # type: ignore[method-assign]
    async with world.running():
        await world.until(lambda: first.status == "under_process")
        await trio.sleep(30.0)
        assert second.status == "pending"
        answering.set()
        await world.until_settled()
    assert world.core.sends() == [first.id, second.id]


@pytest.mark.guarantee("QU4")
async def test_a_ceremony_in_back_off_holds_back_nobody(autojump_clock: MockClock) -> None:
    world = World()
    stuck = world.reshare(1, block_number=101)
    world.core.always[RESHARE] = StatusCode.INTERNAL
    async with world.running():
        await world.until(lambda: stuck.status == "pending" and stuck.last_error is not None)
        later = world.crsgen(1, block_number=102)
        world.wakeups.ring(Kind.CRSGEN, is_response=False)
        await world.until(lambda: later.status == "completed", 20.0)
    assert stuck.status == "pending"


@pytest.mark.guarantee("QU4")
async def test_a_keygen_waits_for_the_result_of_its_preparation(autojump_clock: MockClock) -> None:
    """Both events arrive together: other parties may have finished the preparation first (decisions.md 16)."""
    world = World()
    keygen, prep = world.keygen(block_number=102), world.prep(block_number=101)
    world.core.ceremony = 100.0
    async with world.running():
        await world.until(lambda: bool(world.core.sends(Kind.PREP_KEYGEN)))
        await trio.sleep(50.0)
        assert world.core.sends(Kind.KEYGEN) == []
        await world.until_settled()
    assert (prep.status, keygen.status) == ("completed", "completed")
    assert world.core.sends() == [prep.id, keygen.id]


# ---------------------------------------------------------------------------------------------------------------------
# Keygen and its preparation


@pytest.mark.guarantee("QU4")
async def test_without_a_row_the_core_is_asked_for_the_preparation(autojump_clock: MockClock) -> None:
    world = _quiet_world()
    row = world.keygen()
    async with world.running():
        await world.until(lambda: "of which there is no row here" in _words(row))
        assert "NOT_FOUND" in _words(row)
        assert "no row here" in _alerts(world)
        await trio.sleep(600.0)
        assert world.core.sends(Kind.KEYGEN) == []
        assert row.status in ("pending", "under_process")
        _prepared(world)
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


async def test_a_preparation_that_the_core_still_computes_is_asked_for_soon_again(autojump_clock: MockClock) -> None:
    world = World()
    row = world.keygen()
    world.core.overrides[GET_PREP].extend([StatusCode.UNAVAILABLE] * 3)
    _prepared(world)
    async with world.running():
        await world.until_settled(60.0)
    assert row.status == "completed"
    assert world.health.alerts == ()


@pytest.mark.parametrize("forgotten", [False, True], ids=["never sent", "forgotten"])
async def test_a_preparation_whose_keygen_was_sent_is_never_sent_again(
    autojump_clock: MockClock, forgotten: bool
) -> None:
    world = _quiet_world()
    prep = world.prep(already_sent=forgotten, core_shard=world.core.shards[0].endpoint if forgotten else None)
    world.keygen(status="completed", already_sent=True)
    async with world.running():
        await world.until(lambda: "its keygen was sent already" in _words(prep))
        await trio.sleep(1200.0)
    assert world.core.sends(Kind.PREP_KEYGEN) == []
    assert "its keygen was sent already" in _alerts(world)
    assert prep.status in ("pending", "under_process")


async def test_a_preparation_that_the_core_forgot_is_sent_again(autojump_clock: MockClock) -> None:
    world = World()
    prep = world.prep(already_sent=True, core_shard=world.core.shards[0].endpoint)
    async with world.running():
        await world.until_settled()
    assert prep.status == "completed"
    assert world.core.sends() == [prep.id]


@pytest.mark.parametrize("prepared", [True, False], ids=["preparation there", "preparation gone"])
async def test_a_keygen_that_the_core_forgot(autojump_clock: MockClock, prepared: bool) -> None:
    """It is done again only while its preparation is there: without it, another key would be made."""
    world = _quiet_world()
    row = world.keygen(already_sent=True, core_shard=world.core.shards[0].endpoint)
    if prepared:
        _prepared(world)
    async with world.running():
        if prepared:
            await world.until_settled()
            assert (row.status, world.core.sends()) == ("completed", [row.id])
            return
        await world.until(lambda: "its preparation is gone" in _words(row))
        polled = world.core.count(GET_KEY)
        await trio.sleep(1200.0)
        assert 2 <= world.core.count(GET_KEY) - polled <= 15, "polled, but slowly"
        assert world.core.sends() == []
        assert row.status in ("pending", "under_process")
        assert "restore that Core's key material" in _alerts(world)
        endpoint = world.core.shards[0].endpoint
        world.core.entries[endpoint, Kind.KEYGEN, row.id] = Entry(
            0.0, world.core.signer.keygen_result(row.id, PREP_ID, DOMAIN)
        )
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


@pytest.mark.guarantee("WK5")
async def test_a_keygen_goes_where_its_preparation_went(autojump_clock: MockClock) -> None:
    world = World(shards=3)
    for number in range(1, 7):
        world.prep(number)
        world.keygen(number)
    async with world.running():
        await world.until_settled()
    places = {(method, one & 0xFF): endpoint for endpoint, method, one in world.core.calls}
    for number in range(1, 7):
        assert places[CoreMethod.KEY_GEN, number] == places[CoreMethod.KEY_GEN_PREPROC, number]
    assert len({places[CoreMethod.KEY_GEN, number] for number in range(1, 7)}) == 3
    assert {row.core_shard for row in world.rows()} == {shard.endpoint for shard in world.core.shards}


@pytest.mark.guarantee("WK5")
async def test_a_shard_that_left_the_configuration_is_chosen_again(autojump_clock: MockClock) -> None:
    world = World()
    row = world.crsgen(already_sent=True, core_shard="http://gone:50051")
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert row.core_shard == world.core.shards[0].endpoint
    assert world.core.sends() == [row.id], "sent there as if never before"


# ---------------------------------------------------------------------------------------------------------------------
# Answers of the Core: every row of the table of design.md (WK5, QU5)


@pytest.mark.guarantee("WK5", "QU5")
@pytest.mark.parametrize("status", [one for one in StatusCode if one is not StatusCode.OK], ids=lambda one: one.name)
@pytest.mark.parametrize("method", [CoreMethod.CRS_GEN, CoreMethod.GET_CRS_GEN_RESULT], ids=["send", "poll"])
async def test_no_answer_but_an_abortion_fails_a_ceremony(
    autojump_clock: MockClock, method: CoreMethod, status: StatusCode
) -> None:
    world = _quiet_world()
    row = world.crsgen()
    world.core.always[method] = status
    async with world.running():
        await trio.sleep(120.0)
        if (method, status) == (CoreMethod.GET_CRS_GEN_RESULT, StatusCode.ABORTED):
            assert (row.status, row.last_error) == ("failed", "aborted by the Core")
            assert "aborted by the Core" in _alerts(world)
            return
        assert row.status in ("pending", "under_process"), row.last_error
        assert row.error_counter == 0
        if (method, status) == (CoreMethod.CRS_GEN, StatusCode.ALREADY_EXISTS):
            return  # it is said to be there, and the poll does not know it: sent and polled for, again and again
        del world.core.always[method]
        healed = trio.current_time()
        await world.until_settled()
        assert trio.current_time() - healed < 400.0
    assert row.status == "completed"
    assert world.health.alerts == ()


@pytest.mark.parametrize(
    "status", [StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.UNIMPLEMENTED]
)
async def test_what_needs_an_operator_is_alerted_with_the_cores_words(
    autojump_clock: MockClock, status: StatusCode
) -> None:
    world = _quiet_world()
    row = world.crsgen()
    world.core.always[CoreMethod.CRS_GEN] = status
    async with world.running():
        await world.until(lambda: status.name in _words(row))
        assert status.name in _alerts(world)
        sent = world.core.count(CoreMethod.CRS_GEN)
        await trio.sleep(1200.0)
        limit = 15 if status is not StatusCode.UNIMPLEMENTED else 45
        assert world.core.count(CoreMethod.CRS_GEN) - sent <= limit, "slowly"


async def test_a_busy_core_is_asked_again_soon_and_nobody_is_alarmed(autojump_clock: MockClock) -> None:
    world = World()
    row = world.crsgen()
    world.core.overrides[CoreMethod.CRS_GEN].extend([StatusCode.RESOURCE_EXHAUSTED] * 5)
    began = trio.current_time()
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert trio.current_time() - began < 60.0
    assert world.health.alerts == ()


@pytest.mark.guarantee("WK5")
@pytest.mark.parametrize("status", BURNING, ids=lambda one: one.name)
async def test_a_burnt_id_is_polled_slowly_with_an_alert(autojump_clock: MockClock, status: StatusCode) -> None:
    world = _quiet_world()
    row = world.crsgen()
    world.core.overrides[CoreMethod.CRS_GEN].append(status)
    world.core.entries[world.core.shards[0].endpoint, Kind.CRSGEN, row.id] = Entry(float("inf"), None)
    async with world.running():
        await world.until(lambda: "burnt at core" in _words(row), 1200.0)
        assert row.refusal == status.name
        assert status.name in _words(row)
        assert "burnt" in _alerts(world)
        polled, sent = world.core.count(CoreMethod.GET_CRS_GEN_RESULT), len(world.core.sends())
        await trio.sleep(1200.0)
        assert world.core.count(CoreMethod.GET_CRS_GEN_RESULT) - polled <= 15
        assert len(world.core.sends()) == sent, "not sent again while the Core holds the id"
        assert row.status in ("pending", "under_process")
        world.core.restart()  # which frees the id
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


# ---------------------------------------------------------------------------------------------------------------------
# Results (WK6)


@pytest.mark.guarantee("WK6", "QU5")
async def test_a_rejected_result_is_kept_alerted_and_never_fails_a_ceremony(autojump_clock: MockClock) -> None:
    world = _quiet_world()
    row = world.crsgen()

    def other_bits(reply: kms.CrsGenResult) -> kms.CrsGenResult:
        return kms.CrsGenResult(reply.request_id, reply.crs_digest, reply.max_num_bits + 1, reply.external_signature)

    poll = CoreMethod.GET_CRS_GEN_RESULT
    world.core.overrides[poll].extend([other_bits] * 8)
    async with world.running():
        await world.until(lambda: len(world.store.rejected) == 8, 5_000.0)
        assert (row.status, row.fields) == ("pending", None)
        assert "2049 bits" in _alerts(world)
        assert world.core.sends() == [row.id]
        await world.until_settled(1000.0)
    assert row.status == "completed"
    kept = world.store.rejected[0]
    assert (kept.kind, kept.id) == (Kind.CRSGEN, row.id)
    assert kms.CrsGenResult.parse(kept.raw).max_num_bits == 2049
    assert world.health.alerts == ()


@pytest.mark.guarantee("WK6")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Kind.PRSS_INIT], ids=lambda kind: kind.value)
async def test_a_strangers_signature_is_refused_where_the_signer_is_configured(
    autojump_clock: MockClock, kind: Kind
) -> None:
    world = World(kms_signer_address=USER)
    row = KINDS[kind](world)
    async with world.running():
        await world.until(lambda: bool(world.store.rejected))
        await world.until(lambda: "signed by" in _words(row))
    assert row.fields is None
    assert row.status == "pending"
    assert "signed by" in world.store.rejected[0].reason


# ---------------------------------------------------------------------------------------------------------------------
# Reshare (decisions.md 17)


async def test_a_reshare_is_sent_with_the_keys_digests(autojump_clock: MockClock) -> None:
    world = World()
    row = world.reshare()
    sent: list[kms.InitiateResharingRequest] = []
    original = world.core.call

    async def noting(shard: Any, method: CoreMethod, request: Any, *, deadline: float) -> Any:
        if method is RESHARE:
            sent.append(kms.InitiateResharingRequest.parse(request))
        return await original(shard, method, request, deadline=deadline)

    world.core.call = noting  # type: ignore[method-assign]
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert [(one.key_type, one.digest) for one in sent[0].key_digests] == [
        ("ServerKey", key_digests(KEY_ID)[0].digest),
        ("PublicKey", key_digests(KEY_ID)[1].digest),
    ]
    order = [method for _, method, _ in world.core.calls if method in (RESHARE, GET_RESHARE)]
    assert order == [GET_RESHARE, RESHARE, GET_RESHARE], "its result is asked for before it is sent"


async def test_digests_come_from_the_contract_where_our_rows_have_none(autojump_clock: MockClock) -> None:
    world = World()
    row = world.reshare(digests=False)
    digests = key_digests(KEY_ID)
    answer = views.GET_KEY_MATERIALS.encode_return((("http://storage",), digests))
    for node in (world.gateway, world.gateway_two):
        node.returns[views.GET_KEY_MATERIALS.encode(KEY_ID)] = answer
    async with world.running():
        await world.until_settled()
    assert row.status == "completed", row.last_error
    assert world.core.sends() == [row.id]


@pytest.mark.parametrize(
    ("key_id", "words"),
    [(KEY_ID, "no generated key"), (5 << 248 | 1, "not the id of a key"), (7, "not the id of a key")],
    ids=["without digests", "a CRS", "no type"],
)
async def test_a_reshare_of_what_is_no_key_is_failed_and_never_sent(
    autojump_clock: MockClock, key_id: int, words: str
) -> None:
    world = World()
    row = world.reshare(key_id=key_id, digests=False)
    async with world.running():
        await world.until_settled()
    assert row.status == "failed"
    assert words in _words(row)
    assert words in _alerts(world)
    assert world.core.sends() == []


async def test_a_reshare_waits_while_the_contract_cannot_be_asked(autojump_clock: MockClock) -> None:
    world = _quiet_world()
    row = world.reshare(digests=False)
    world.gateway.down = world.gateway_two.down = True
    async with world.running():
        await trio.sleep(600.0)
        assert row.status in ("pending", "under_process")
        assert world.core.sends() == []


async def test_a_reshare_waits_for_a_key_that_is_not_active(autojump_clock: MockClock) -> None:
    world = World()
    row = world.reshare()
    world.store.allowances[KEY_ID] = KeyAllowance.DECRYPTION_ONLY
    async with world.running():
        await world.until(lambda: "registry of keys" in _words(row))
        assert world.core.sends() == []
        world.store.allowances[KEY_ID] = KeyAllowance.ALL
        await world.until_settled()
    assert row.status == "completed"


async def test_a_reshare_in_doubt_is_not_sent_twice(autojump_clock: MockClock) -> None:
    """The send was taken, its reply lost: the result is asked for, and the row completes with it."""
    world = World()
    row = world.reshare()
    original = world.core.call
    lost = 0

    async def losing(shard: Any, method: CoreMethod, request: Any, *, deadline: float) -> Any:
        nonlocal lost
        answer = await original(shard, method, request, deadline=deadline)
        if method is RESHARE and not lost:
            lost += 1
            return answer._replace(status=StatusCode.UNAVAILABLE, message=None)
        return answer

    world.core.call = losing  # type: ignore[method-assign]
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.core.sends() == [row.id]


@pytest.mark.parametrize("status", [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED], ids=lambda one: one.name)
async def test_a_reshare_is_not_sent_while_its_result_cannot_be_asked_for(
    autojump_clock: MockClock, status: StatusCode
) -> None:
    world = _quiet_world()
    row = world.reshare()
    world.core.always[GET_RESHARE] = status
    async with world.running():
        await trio.sleep(900.0)
        assert world.core.sends() == []
        assert "away or still resharing" in _words(row)
        del world.core.always[GET_RESHARE]
        await world.until_settled()
    assert (row.status, world.core.sends()) == ("completed", [row.id])


async def test_cancelled_once_is_an_accident(autojump_clock: MockClock) -> None:
    world = World()
    row = world.reshare()
    world.core.overrides[RESHARE].append(StatusCode.CANCELLED)
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


async def test_cancelled_twice_says_that_this_core_cannot_reshare(autojump_clock: MockClock) -> None:
    world = _quiet_world()
    row = world.reshare()
    world.core.always[RESHARE] = StatusCode.CANCELLED
    async with world.running():
        await world.until(lambda: "cannot reshare (centralized?)" in _words(row))
        assert "cannot reshare (centralized?)" in _alerts(world)
        sent = world.core.count(RESHARE)
        await trio.sleep(1200.0)
        assert world.core.count(RESHARE) - sent <= 15
        assert row.status in ("pending", "under_process")


async def test_cancelled_means_nothing_of_the_kind_elsewhere(autojump_clock: MockClock) -> None:
    world = World()
    row = world.crsgen()
    world.core.overrides[CoreMethod.CRS_GEN].extend([StatusCode.CANCELLED] * 3)
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


# ---------------------------------------------------------------------------------------------------------------------
# Loss


async def test_a_ceremony_is_sent_again_when_its_send_was_not_recorded(autojump_clock: MockClock) -> None:
    """ALREADY_EXISTS without an earlier refusal is our own send: the result is simply waited for."""
    world = World()
    row = world.crsgen()
    endpoint = world.core.shards[0].endpoint
    world.core.entries[endpoint, Kind.CRSGEN, row.id] = Entry(30.0, world.core.signer.crs_result(row.id, 2048, DOMAIN))
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.health.alerts == ()


async def test_a_withdrawn_ceremony_is_left_alone(autojump_clock: MockClock) -> None:
    world = World()
    row = world.crsgen()
    world.core.ceremony = 30.0
    async with world.running():
        await world.until(lambda: row.already_sent)
        del world.store.rows[Kind.CRSGEN, row.id]
        await world.until(lambda: not world.worker.in_flight[Kind.CRSGEN])
    assert row.fields is None


# ---------------------------------------------------------------------------------------------------------------------
# Beside decryptions (QU4)


@pytest.mark.guarantee("QU4")
async def test_stuck_decryptions_leave_ceremonies_running(autojump_clock: MockClock) -> None:
    """Every place for decryptions is taken, and more wait."""
    world = World(task_limit=10)
    rows = [world.public(number) for number in range(1, 31)] + [world.user(number) for number in range(1, 31)]
    world.core.latency = float("inf")
    async with world.running():
        await world.until(lambda: Counter(row.status for row in rows)["under_process"] == 20)
        ceremonies = [world.prep(9), world.keygen(9), world.crsgen(), world.prss(), world.reshare()]
        for row in ceremonies:
            world.wakeups.ring(row.kind, is_response=False)
        await world.until(lambda: {row.status for row in ceremonies} == {"completed"}, 60.0)
    assert {row.status for row in rows} == {"pending", "under_process"}


@pytest.mark.guarantee("QU4")
async def test_stuck_ceremonies_leave_decryptions_running(autojump_clock: MockClock) -> None:
    world = World()
    ceremonies = [world.crsgen(number, block_number=number) for number in range(1, 101)]
    world.core.ceremony = float("inf")
    async with world.running():
        await world.until(lambda: world.core.open[CoreMethod.GET_CRS_GEN_RESULT] == CEREMONY_ROOM)
        rows = [world.public(1), world.user(1)]
        for row in rows:
            world.wakeups.ring(row.kind, is_response=False)
        await world.until(lambda: {row.status for row in rows} == {"completed"}, 10.0)
    assert "completed" not in {row.status for row in ceremonies}
