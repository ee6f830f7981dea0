"""Serving one ceremony: prep keygen, keygen, crsgen, PRSS init, key reshare (decisions.md 11 to 17, 19).

    is it time to send it?        what its kind must know first: its preparation, the key's digests, an earlier result
    send, and free the Core's slot for the next ceremony in chain order
    wait for the result, check it

A ceremony is never given up by itself: what most likely needs an operator is alerted and tried again slowly.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs

from kmsd.core import requests, results
from kmsd.core.results import Result, ResultRejected
from kmsd.core.status import Phase, Verdict, refusal
from kmsd.failpoints import failpoint
from kmsd.operations.core_desk import words_of
from kmsd.operations.kinds import Kind
from kmsd.operations.outcomes import LeaseLost, Outcome, Setback, lease_of, tries_before
from kmsd.operations.polling import POLL_ERRORS, alert_key, clear_alert, result_of, send, was_fresh
from kmsd.operations.retry import SLOW, Reason
from kmsd.operations.table import OPERATIONS, Family
from kmsd.operations.tools import Tools
from kmsd.ports import (
    Answered,
    Claimed,
    CoreAnswer,
    CoreMethod,
    Finished,
    KeyAllowance,
    RejectedResult,
    Sent,
    Shard,
    StatusCode,
)
from kmsd.wire import ids
from kmsd.wire.eip712 import Domain
from kmsd.wire.ids import IdType
from kmsd.wire.v0_11.structs import KeyDigest

Digests = Sequence[KeyDigest]


async def _nothing_first(row: Claimed, shard: Shard, tools: Tools) -> Digests:
    return ()


async def _resend(row: Claimed, shard: Shard, tools: Tools) -> Setback:
    return Setback(Reason.CORE_FORGOT, f"core {shard.endpoint} no longer knows it: sent again", clear_sent=True)


@attrs.frozen
class Ceremony:
    """What differs between the kinds.

    `before` runs before a send: it raises Setback while it is too early, and gives the key's digests where the request
    needs them. `forgotten` says what follows when the Core no longer knows the id. `long`: the send itself may take
    minutes (`core_ceremony_timeout`). `result_first`: a second send would spoil it, so its result is asked for first.
    """

    request: Callable[[Any, Domain, Digests], bytes]
    check: Callable[[Any, Any, Domain, bytes | None], Result] | None
    before: Callable[[Claimed, Shard, Tools], Awaitable[Digests]] = _nothing_first
    forgotten: Callable[[Claimed, Shard, Tools], Awaitable[Setback]] = _resend
    long: bool = False
    result_first: bool = False


async def serve_ceremony(row: Claimed, tools: Tools) -> Outcome:
    """Serve `row`. Raises Setback, or what the table of `outcomes` makes one of."""
    operation = OPERATIONS[row.kind]
    form = CEREMONY_FORMS[row.kind]
    shard, is_sent = tools.core.shard_of(row)
    stored_refusal = row.refusal
    if not is_sent:
        with tools.stage("check", row):
            if form.result_first and (earlier := await _earlier_result(row, shard, form, tools)) is not None:
                return earlier
            digests = await form.before(row, shard, tools)
        failpoint("worker.before_ceremony_send")
        settings = tools.settings
        with tools.stage("send", row, core=shard.endpoint):
            request = form.request(row.event, tools.kms_generation, digests)
            deadline = settings.core_ceremony_timeout if form.long else settings.core_send_timeout
            try:
                verdict, answer = await send(row, shard, tools, request, deadline)
            except Setback as setback:
                raise _cancelled(row, shard, tools, setback) from None
        failpoint("worker.after_ceremony_send")
        if verdict is not Verdict.SENT:
            raise _turned_down(row, shard, tools, verdict, answer, Phase.SEND)
        clear_alert(row, tools.health)
        if operation.poll is None:
            return Finished(lease_of(row), None if was_fresh(answer) else "the Core had done it before")
        if was_fresh(answer):
            stored_refusal = None
        if not await tools.transitions.sent(Sent(lease_of(row), shard.endpoint, was_fresh(answer))):
            raise LeaseLost
        tools.wakeups.ring(row.kind, is_response=False)  # the Core's slot is free for the next ceremony
    with tools.stage("await", row, core=shard.endpoint):
        verdict, answer = await result_of(row, shard, tools, stored_refusal)
    failpoint("worker.after_ceremony_result")
    if verdict is Verdict.RESEND:
        raise await form.forgotten(row, shard, tools)
    if verdict is not Verdict.RESULT:
        raise _turned_down(row, shard, tools, verdict, answer, Phase.POLL)
    return await _checked(row, shard, form, tools, answer)


async def _checked(row: Claimed, shard: Shard, form: Ceremony, tools: Tools, answer: CoreAnswer) -> Outcome:
    operation = OPERATIONS[row.kind]
    assert form.check is not None
    try:
        result = form.check(answer.message, row.event, tools.kms_generation, tools.core.signer)
    except ResultRejected as rejected:
        tools.metrics.inc(POLL_ERRORS, operation.label)
        tools.metrics.inc("kms_connector_results_rejected", operation.label)
        _alert(row, tools, f"the result of core {shard.endpoint} was rejected: {rejected.reason}")
        await tools.transitions.reject(
            RejectedResult(row.kind, row.id, shard.endpoint, rejected.reason, bytes(answer.message))
        )
        raise
    tools.metrics.inc("kms_connector_worker_grpc_response_polled_counter", operation.label)
    tools.core.signed_by(shard, result.signer)
    clear_alert(row, tools.health)
    if operation.response is None:
        return Finished(lease_of(row))
    return Answered(lease_of(row), result.fields, row.otlp_context, tools.time.now())


def _turned_down(
    row: Claimed, shard: Shard, tools: Tools, verdict: Verdict, answer: CoreAnswer, phase: Phase
) -> Setback:
    """The Core said no. Alerted: nobody but the operator gives a ceremony up, unless the Core itself aborted it."""
    words = f"core {shard.endpoint} answered the {phase.value} with {words_of(answer)}"
    if verdict is Verdict.ABORTED_FAIL:
        _alert(row, tools, "aborted by the Core")
        return Setback(Reason.CORE_ABORTED, "aborted by the Core")
    _alert(row, tools, words)
    reason = Reason.CORE_REFUSED if verdict is Verdict.REFUSED else Reason.CORE_INTERNAL
    refused = refusal(phase, Family.CEREMONY, answer.status)
    return Setback(reason, words, refusal=refused, core_shard=shard.endpoint if refused else None)


def _cancelled(row: Claimed, shard: Shard, tools: Tools, setback: Setback) -> Setback:
    """CANCELLED twice from a Core that answers is how a centralized one says that it cannot reshare (decisions.md 17).

    The first is remembered with the row as its refusal.
    """
    if setback.status is not StatusCode.CANCELLED or not CEREMONY_FORMS[row.kind].result_first:
        return setback
    words = setback.words
    if row.refusal == StatusCode.CANCELLED.name:
        words = f"core {shard.endpoint} cannot reshare (centralized?): it answered CANCELLED again"
        _alert(row, tools, words)
        return Setback(Reason.CORE_INTERNAL, words)
    return Setback(setback.reason, words, outage=True, refusal=StatusCode.CANCELLED.name)


def _alert(row: Claimed, tools: Tools, words: str) -> None:
    tools.health.alert(alert_key(row), f"{alert_key(row)}: {words}")


def _slowly(row: Claimed, tools: Tools, words: str) -> Setback:
    """A ceremony that cannot go on by itself: alert, look again now and then."""
    _alert(row, tools, words)
    return Setback(Reason.PREPARATION, words, delay=SLOW.delay(tries_before(row), tools.entropy.random()))


# ---------------------------------------------------------------------------------------------------------------------
# Keys


async def _preparation_not_used(row: Claimed, shard: Shard, tools: Tools) -> Digests:
    if await tools.store.keygen_was_sent(row.id):
        raise _preparation_used(row, tools)
    return ()


def _preparation_used(row: Claimed, tools: Tools) -> Setback:
    return _slowly(row, tools, "its keygen was sent already, which uses the preparation up: it is never sent again")


async def _preparation_forgotten(row: Claimed, shard: Shard, tools: Tools) -> Setback:
    if await tools.store.keygen_was_sent(row.id):
        return _preparation_used(row, tools)
    return await _resend(row, shard, tools)


async def _preparation_ready(row: Claimed, shard: Shard, tools: Tools) -> Digests:
    """A keygen is claimed only once its preparation's result is stored; without such a row, the Core is asked."""
    prep_keygen_id = row.event.prep_keygen_id
    if await tools.store.prep_keygen_known(prep_keygen_id):
        return ()
    answer = await _preparation_at(shard, prep_keygen_id, tools)
    if answer.status is StatusCode.OK:
        return ()
    words = (
        f"waits for {ids.short(prep_keygen_id)}, of which there is no row here and which core {shard.endpoint} "
        f"answers with {words_of(answer)}"
    )
    if answer.status is StatusCode.NOT_FOUND:
        raise _slowly(row, tools, words)
    raise Setback(Reason.PREPARATION, words, outage=True)


async def _keygen_forgotten(row: Claimed, shard: Shard, tools: Tools) -> Setback:
    """A centralized Core forgets keygens with a restart; with the preparation gone it must not be done anew."""
    answer = await _preparation_at(shard, row.event.prep_keygen_id, tools)
    if answer.status is StatusCode.OK:
        return await _resend(row, shard, tools)
    return _slowly(
        row,
        tools,
        f"core {shard.endpoint} no longer knows this keygen and its preparation is gone: it is not done again, which "
        "would make another key; restore that Core's key material",
    )


async def _preparation_at(shard: Shard, prep_keygen_id: int, tools: Tools) -> CoreAnswer:
    return await tools.core.ask(
        shard,
        CoreMethod.GET_KEY_GEN_PREPROC_RESULT,
        requests.poll(prep_keygen_id),
        deadline=tools.settings.core_poll_timeout,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Reshare


async def _digests_of_key(row: Claimed, shard: Shard, tools: Tools) -> Digests:
    """The digests that a reshare needs. Raises Setback for ids that name no key: such an event is never sent."""
    key_id = row.event.key_id
    if ids.id_type(key_id) is IdType.KEY:
        await tools.keys.must_allow(key_id, KeyAllowance.ALL)
        digests: Digests = await tools.store.key_digests(key_id) or await tools.gateway.key_digests(key_id)
        if digests:
            return digests
        words = f"{ids.short(key_id)} is no generated key: neither our rows nor the contract have its digests"
    else:
        words = f"{ids.short(key_id)} is not the id of a key"
    _alert(row, tools, words)
    raise Setback(Reason.MALFORMED, words)


async def _earlier_result(row: Claimed, shard: Shard, form: Ceremony, tools: Tools) -> Outcome | None:
    """A reshare may have been sent without our knowing, and sending it twice spoils it: ask for its result first."""
    answer = await tools.core.ask(
        shard,
        CoreMethod.GET_RESHARING_RESULT,
        requests.poll(row.id),
        deadline=tools.settings.core_poll_timeout,
    )
    if answer.status is StatusCode.OK:
        return await _checked(row, shard, form, tools, answer)
    if answer.status in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
        raise Setback(
            Reason.CORE_UNREACHABLE,
            f"core {shard.endpoint} is away or still resharing: {words_of(answer)}",
            outage=True,
        )
    return None


CEREMONY_FORMS: dict[Kind, Ceremony] = {
    Kind.PREP_KEYGEN: Ceremony(
        request=lambda event, domain, _: requests.key_gen_preproc(event.prep_keygen_id, event.params_type, domain),
        check=lambda reply, event, domain, signer: results.prep_keygen(
            reply, prep_keygen_id=event.prep_keygen_id, domain=domain, expected_signer=signer
        ),
        before=_preparation_not_used,
        forgotten=_preparation_forgotten,
    ),
    Kind.KEYGEN: Ceremony(
        request=lambda event, domain, _: requests.key_gen(event.key_id, event.prep_keygen_id, domain),
        check=lambda reply, event, domain, signer: results.keygen(
            reply,
            key_id=event.key_id,
            prep_keygen_id=event.prep_keygen_id,
            domain=domain,
            expected_signer=signer,
        ),
        before=_preparation_ready,
        forgotten=_keygen_forgotten,
    ),
    Kind.CRSGEN: Ceremony(
        request=lambda event, domain, _: requests.crs_gen(
            event.crs_id, event.max_bit_length, event.params_type, domain
        ),
        check=lambda reply, event, domain, signer: results.crsgen(
            reply, crs_id=event.crs_id, max_bit_length=event.max_bit_length, domain=domain, expected_signer=signer
        ),
    ),
    Kind.PRSS_INIT: Ceremony(request=lambda event, domain, _: requests.init(), check=None, long=True),
    Kind.KEY_RESHARE: Ceremony(
        request=lambda event, domain, digests: requests.initiate_resharing(
            event.key_reshare_id, event.key_id, event.prep_keygen_id, event.params_type, domain, digests
        ),
        check=lambda reply, event, domain, signer: results.resharing(
            reply,
            key_reshare_id=event.key_reshare_id,
            key_id=event.key_id,
            prep_keygen_id=event.prep_keygen_id,
            domain=domain,
            expected_signer=signer,
        ),
        before=_digests_of_key,
        long=True,
        result_first=True,
    ),
}
