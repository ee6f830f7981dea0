"""Who may decrypt what, through the whole worker: every row of the ACL table, and every way to be refused (WK1).

wire/gateway.md 7: a public decryption needs `isAllowedForDecryption` for each handle; a direct user decryption
`isAllowed` for the user and for the contract; a delegated one the delegation besides, and the delegator in the user's
place.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from worker_world import (
    ACL,
    DAPP,
    DELEGATOR,
    DELEGATOR_KEY,
    GATEWAY_CONFIG,
    HOST_ID,
    USER,
    Row,
    World,
    delegated_calldata,
    material,
    user_calldata,
    user_event,
)

from kmsd.operations.grants import MAX_GRANTS, Grants
from kmsd.operations.kinds import Kind
from kmsd.ports import BlobFault, Claimed, RpcError
from kmsd.wire import ids
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import views
from kmsd.wire.v0_11.events import BY_NAME
from kmsd.wire.v0_11.structs import ContractsInfo, HandleContractPair

STRANGER = bytes.fromhex("5e" * 20)


def _handle(row: Row) -> bytes:
    handle: bytes = row.event.sns_materials[0].ct_handle
    return handle


def _words(row: Row) -> str:
    return row.last_error or ""


async def _refused(world: World, row: Row, words: str) -> None:
    """The row fails with these words, and the Core never hears of it."""
    async with world.running():
        await world.until_settled()
    assert row.status == "failed"
    assert words in _words(row)
    assert world.core.sends() == []


# ---------------------------------------------------------------------------------------------------------------------
# The ACL table

NEEDED: dict[str, tuple[Callable[[World], Row], Sequence[Callable[[bytes], bytes]]]] = {
    "public": (
        lambda world: world.public(1, allowed=False),
        [lambda handle: views.IS_ALLOWED_FOR_DECRYPTION.encode(handle)],
    ),
    "direct": (
        lambda world: world.user(1, allowed=False),
        [lambda handle: views.IS_ALLOWED.encode(handle, USER), lambda handle: views.IS_ALLOWED.encode(handle, DAPP)],
    ),
    "delegated": (
        lambda world: world.user(1, allowed=False, delegated=True),
        [
            lambda handle: views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION.encode(DELEGATOR, USER, DAPP, handle),
            lambda handle: views.IS_ALLOWED.encode(handle, DELEGATOR),
            lambda handle: views.IS_ALLOWED.encode(handle, DAPP),
        ],
    ),
}
"""How a request comes about, and what the ACL must answer with yes: all of it."""
DENIED = [(rule, missing) for rule, (_, needed) in NEEDED.items() for missing in range(len(needed))]


@pytest.mark.guarantee("WK1")
@pytest.mark.parametrize("rule", NEEDED)
async def test_what_is_allowed_is_decrypted(autojump_clock: MockClock, rule: str) -> None:
    world = World()
    make, needed = NEEDED[rule]
    row = make(world)
    world.host.true_views |= {question(_handle(row)) for question in needed}
    async with world.running():
        await world.until_settled()
    assert row.status == "completed", row.last_error


@pytest.mark.guarantee("WK1")
@pytest.mark.parametrize(("rule", "missing"), DENIED)
async def test_one_no_is_a_no(autojump_clock: MockClock, rule: str, missing: int) -> None:
    world = World()
    make, needed = NEEDED[rule]
    row = make(world)
    questions = [question(_handle(row)) for question in needed]
    world.host.true_views |= set(questions) - {questions[missing]}
    await _refused(world, row, f"not allowed: {views.VIEWS[questions[missing][:4]].name}(")
    assert row.error_counter == world.settings.max_decryption_attempts
    assert _handle(row).hex() in _words(row)
    assert f"on host chain {HOST_ID} is false" in _words(row)


@pytest.mark.guarantee("WK1")
async def test_one_handle_of_several_that_is_not_allowed_holds_back_the_whole(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1, handles=5)
    last = row.event.sns_materials[-1].ct_handle
    world.host.true_views.remove(views.IS_ALLOWED_FOR_DECRYPTION.encode(last))
    await _refused(world, row, last.hex())


async def test_what_is_not_allowed_yet_is_asked_again(autojump_clock: MockClock) -> None:
    """The host chain's node may lag behind the Gateway."""
    world = World()
    row = world.public(1, allowed=False)
    async with world.running():
        await world.until(lambda: "not allowed" in _words(row))
        assert row.status == "pending"
        world.host.true_views.add(views.IS_ALLOWED_FOR_DECRYPTION.encode(_handle(row)))
        await world.until_settled()
    assert row.status == "completed"
    assert row.error_counter == 1


# ---------------------------------------------------------------------------------------------------------------------
# The transaction behind a user decryption

Spoiler = Callable[[Any], bytes]
OTHER_HANDLE = material(99)[0].ct_handle
SPOILT: dict[str, tuple[Spoiler, str]] = {
    "another handle": (
        lambda event: user_calldata(event, ct_handle_contract_pairs=(HandleContractPair(OTHER_HANDLE, DAPP),)),
        "different handles",
    ),
    "a handle more": (
        lambda event: user_calldata(
            event,
            ct_handle_contract_pairs=tuple(
                HandleContractPair(handle, DAPP) for handle in (event.sns_materials[0].ct_handle, OTHER_HANDLE)
            ),
        ),
        "different handles",
    ),
    "no handles": (lambda event: user_calldata(event, ct_handle_contract_pairs=()), "different handles"),
    "another user": (lambda event: user_calldata(event, user_address=STRANGER), "different user"),
    "another public key": (lambda event: user_calldata(event, public_key=b"key"), "different public key"),
    "other extra data": (lambda event: user_calldata(event, extra_data=b"\x01"), "different extra data"),
    "a contract that the user did not permit": (
        lambda event: user_calldata(event, contracts_info=ContractsInfo(HOST_ID, (STRANGER,))),
        "a contract that the user's permission does not name",
    ),
    "another host chain": (
        lambda event: user_calldata(event, contracts_info=ContractsInfo(HOST_ID + 1, (DAPP,))),
        "another host chain",
    ),
    "another function": (lambda event: b"\x01\x02\x03\x04" + user_calldata(event)[4:], "calldata is unusable"),
    "no function": (lambda event: b"", "calldata is unusable"),
    "cut off": (lambda event: user_calldata(event)[:-40], "calldata is unusable"),
    "signed by another": (lambda event: user_calldata(event, key=DELEGATOR_KEY), "not by the user"),
    "delegated, but signed by the delegator": (
        lambda event: delegated_calldata(event, key=DELEGATOR_KEY),
        "not by the user",
    ),
    "no signature": (
        lambda event: user_calldata(event).replace(_signature(user_calldata(event)), bytes(65)),
        "signature is unusable",
    ),
    "changed after signing": (
        # The permission's duration (10 days) becomes 11: another digest, so another signer comes out.
        lambda event: user_calldata(event).replace((10).to_bytes(32, "big"), (11).to_bytes(32, "big"), 1),
        "not by the user",
    ),
}


def _signature(calldata: bytes) -> bytes:
    at = calldata.rindex((65).to_bytes(32, "big")) + 32
    return calldata[at : at + 65]


@pytest.mark.guarantee("WK1")
@pytest.mark.parametrize("spoilt", SPOILT)
async def test_calldata_that_is_not_the_events_is_refused_for_good(autojump_clock: MockClock, spoilt: str) -> None:
    world = World()
    spoil, words = SPOILT[spoilt]
    found, body = material(1000)
    world.put(found, body)
    event = user_event(1, [found])
    row = world.user(1, calldata=spoil(event))
    assert row.event == event
    everybody = (USER, DAPP, STRANGER, DELEGATOR)
    for handle in (found.ct_handle, OTHER_HANDLE):
        world.host.true_views |= {views.IS_ALLOWED.encode(handle, who) for who in everybody}
    await _refused(world, row, words)
    assert row.attempts == 1


@pytest.mark.guarantee("WK1")
@pytest.mark.parametrize("to", [GATEWAY_CONFIG, ACL, STRANGER], ids=["another contract", "the ACL", "a stranger"])
async def test_a_transaction_to_another_contract_is_refused(autojump_clock: MockClock, to: bytes) -> None:
    world = World()
    row = world.user(1)
    assert row.tx_hash is not None
    world.transaction(row.tx_hash, user_calldata(row.event), to=to)
    await _refused(world, row, "not to the Decryption contract")


@pytest.mark.guarantee("WK1")
async def test_a_transaction_that_creates_a_contract_is_refused(autojump_clock: MockClock) -> None:
    world = World()
    row = world.user(1)
    assert row.tx_hash is not None
    for node in (world.gateway, world.gateway_two):
        node.transactions[row.tx_hash]["to"] = None
    await _refused(world, row, "went to no contract")


async def test_a_transaction_that_no_node_shows_yet_is_waited_for(autojump_clock: MockClock) -> None:
    world = World()
    row = world.user(1)
    assert row.tx_hash is not None
    hidden = [node.transactions.pop(row.tx_hash) for node in (world.gateway, world.gateway_two)]
    async with world.running():
        await trio.sleep(300.0)
        assert "not to be found on the Gateway's nodes" in _words(row)
        assert row.error_counter == 0
        assert world.core.sends() == []
        world.gateway_two.transactions[row.tx_hash] = hidden[1]
        await world.until_settled()
    assert row.status == "completed"


@pytest.mark.guarantee("WK1")
async def test_the_transaction_is_read_from_another_node_than_the_one_that_told_of_it(
    autojump_clock: MockClock,
) -> None:
    """The node that reported the event could have made the transaction up as well (decisions.md 12)."""
    world = World()
    row = world.user(1)
    row.reporting_node = "one"
    assert row.tx_hash is not None
    forged = dict(world.gateway.transactions[row.tx_hash])
    world.gateway.transactions[row.tx_hash] = forged | {"input": "0x"}
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"
    assert world.gateway.asked["eth_getTransactionByHash"] == 0


async def test_while_no_other_node_answers_the_one_that_told_of_it_is_asked(autojump_clock: MockClock) -> None:
    world = World()
    row = world.user(1)
    world.gateway_two.down = True
    async with world.running():
        await world.until_settled()
    assert row.status == "completed"


@pytest.mark.parametrize(
    "answer", [RpcError(-32000, "busy"), "garbage", "another"], ids=["error", "garbage", "another"]
)
async def test_an_answer_that_is_no_transaction_blames_the_node(autojump_clock: MockClock, answer: Any) -> None:
    world = World()
    row = world.user(1)
    assert row.tx_hash is not None
    true = world.gateway.transactions[row.tx_hash]
    for node in (world.gateway, world.gateway_two):
        if isinstance(answer, RpcError):
            node.error = answer
        else:
            node.transactions[row.tx_hash] = (
                {"hash": "no"} if answer == "garbage" else true | {"hash": "0x" + "77" * 32}
            )
    async with world.running():
        await trio.sleep(300.0)
        assert row.status in ("pending", "under_process")
        assert row.error_counter == 0
        assert world.core.sends() == []
        for node in (world.gateway, world.gateway_two):
            node.error, node.transactions[row.tx_hash] = None, true
        await world.until_settled()
    assert row.status == "completed"


@pytest.mark.guarantee("WK1")
@pytest.mark.parametrize("found", [True, False], ids=["in its block", "nowhere"])
async def test_a_row_without_transaction_hash_fails_closed(autojump_clock: MockClock, found: bool) -> None:
    """The old connector stored rows without one, and then checked nothing (weakness W3)."""
    world = World()
    row = world.user(1)
    tx_hash, row.tx_hash = row.tx_hash, None
    assert tx_hash is not None
    if found:
        log = {
            "address": "0x" + "d1" * 20,
            "topics": ["0x" + BY_NAME["UserDecryptionRequest"].topic.hex(), "0x" + ids.to_chain(row.id).hex()],
            "data": "0x",
            "blockNumber": "0x65",
            "blockHash": "0x" + bytes(32).hex(),
            "transactionHash": "0x" + tx_hash.hex(),
            "logIndex": "0x0",
            "removed": False,
        }
        world.gateway.logs.append(log)
        world.gateway_two.logs.append(log)
    async with world.running():
        if found:
            await world.until_settled()
        else:
            await trio.sleep(120.0)
    assert row.status == ("completed" if found else "pending"), row.last_error
    if not found:
        assert "its transaction is not known" in _words(row)
        assert world.core.sends() == []


# ---------------------------------------------------------------------------------------------------------------------
# Host chains that do not answer


@pytest.mark.guarantee("WK1", "QU5")
@pytest.mark.parametrize("trouble", ["down", "error", "garbage", "empty"])
async def test_a_host_chain_that_gives_no_answer_gives_no_permission(autojump_clock: MockClock, trouble: str) -> None:
    """However long it takes, nothing is sent, nothing counts and nothing fails; afterwards all goes on."""
    world = World(decryption_time_budget=60.0, db_fast_event_polling=300.0)
    row = world.public(1)
    question = views.IS_ALLOWED_FOR_DECRYPTION.encode(_handle(row))
    world.host.down = trouble == "down"
    world.host.error = RpcError(-32000, "overloaded") if trouble == "error" else None
    if trouble in ("garbage", "empty"):
        world.host.returns[question] = bytes(31) + b"\x07" if trouble == "garbage" else b""
    async with world.running():
        await trio.sleep(400.0)
        assert row.status in ("pending", "under_process"), row.last_error
        assert row.error_counter == 0
        assert str(HOST_ID) in _words(row) or "host" in _words(row)
        assert world.core.sends() == []
        world.host.down, world.host.error = False, None
        world.host.returns.clear()
        await world.until_settled()
    assert row.status == "completed"


@pytest.mark.guarantee("WK1")
async def test_a_host_chain_that_is_not_configured_is_an_alert(autojump_clock: MockClock) -> None:
    world = World(decryption_time_budget=60.0, db_fast_event_polling=300.0)
    found, body = material(1, chain_id=777)
    world.put(found, body)
    row = world.public(2)
    row.event = row.event._replace(sns_materials=(found,))
    async with world.running():
        await trio.sleep(300.0)
    assert row.status in ("pending", "under_process")
    assert any(
        "host chain 777 is not configured: add it to host_chains" in alert.words for alert in world.health.alerts
    )
    assert world.core.sends() == []


@pytest.mark.guarantee("WK3")
async def test_a_host_chain_that_hangs_meets_its_deadline(autojump_clock: MockClock) -> None:
    world = World(host_rpc_call_timeout=4.0)
    row = world.public(1)
    world.host.latency = 1e6
    async with world.running():
        await world.until(lambda: "down" in _words(row), 10.0)
        world.host.latency = 0.01
        await world.until_settled()
    assert row.status == "completed"
    assert max(world.host.deadlines) <= 4.0


async def test_all_checks_of_a_moment_are_few_requests(autojump_clock: MockClock) -> None:
    world = World()
    for number in range(1, 201):
        world.user(number)
    async with world.running():
        await world.until_settled()
    assert world.store.counts() == {"completed": 200}
    assert world.host.asked["isAllowed"] == 400
    assert world.host.requests <= 20
    assert world.gateway.requests + world.gateway_two.requests <= 40


# ---------------------------------------------------------------------------------------------------------------------
# Answers of yes live as long as the request


async def test_a_retry_does_not_ask_again_and_another_request_does(autojump_clock: MockClock) -> None:
    world = World()
    row = world.user(1)
    world.blobs.faults |= dict.fromkeys(("http://bucket-1/x", "http://bucket-2/x"), BlobFault.CONNECT)
    async with world.running():
        await world.until(lambda: row.attempts >= 3)
        assert world.host.asked["isAllowed"] == 2
        assert world.gateway_two.asked["eth_getTransactionByHash"] == 1
        world.host.down = True
        world.blobs.faults.clear()
        await world.until(lambda: row.status == "completed")
        world.host.down = False
        again = world.user(1)
        world.core.restart()
        world.wakeups.ring(Kind.USER_DECRYPTION, is_response=False)
        await world.until(lambda: again.status == "completed")
    assert world.host.asked["isAllowed"] == 4


@pytest.mark.guarantee("WK1")
async def test_what_took_the_place_of_a_granted_request_is_asked_about(autojump_clock: MockClock) -> None:
    """After a reorganisation the same id means another request, for handles that nobody was allowed."""
    world = World()
    row = world.public(1)
    world.core.keys.clear()
    async with world.running():
        await world.until(lambda: "does not hold key" in _words(row))
        other = world.public(7, allowed=False)
        del world.store.rows[other.kind, other.id]
        row.event = other.event._replace(decryption_id=row.id)
        row.budget_started = trio.current_time()
        world.core.keys.add(f"{4 << 248 | 1:064x}")
        await world.until_settled()
    assert row.status == "failed"
    assert "not allowed" in _words(row)
    assert world.core.sends() == []


async def test_a_denied_request_is_never_remembered_as_granted(autojump_clock: MockClock) -> None:
    world = World()
    row = world.public(1, allowed=False)
    await _refused(world, row, "not allowed")
    assert world.host.asked["isAllowedForDecryption"] == row.attempts


def _claimed(number: int) -> Claimed:
    return Claimed(
        kind=Kind.PUBLIC_DECRYPTION,
        id=number,
        event=("event", number),
        tx_hash=keccak256(b"tx"),
        block_number=1,
        block_hash=bytes(32),
        log_index=0,
        already_sent=False,
        error_counter=0,
        attempts=1,
        core_shard=None,
        refusal=None,
        budget_age=0.0,
        created_at=0.0,
        otlp_context=b"",
        lease=1,
    )


def test_grants_are_bounded_and_forgotten() -> None:
    grants = Grants()
    for number in range(MAX_GRANTS + 10):
        grants.add(_claimed(number))
    assert len(grants) == MAX_GRANTS
    assert not grants.has(_claimed(0))
    assert grants.has(_claimed(MAX_GRANTS))
    grants.drop(_claimed(MAX_GRANTS))
    grants.drop(_claimed(MAX_GRANTS))
    assert not grants.has(_claimed(MAX_GRANTS))


def test_every_view_of_the_acl_is_asked_in_these_tests() -> None:
    asked = {question(bytes(32))[:4] for _, needed in NEEDED.values() for question in needed}
    acl = {views.IS_ALLOWED, views.IS_ALLOWED_FOR_DECRYPTION, views.IS_HANDLE_DELEGATED_FOR_USER_DECRYPTION}
    assert asked == {view.selector for view in acl}
