"""Serving one decryption, public or user, from the leased row to the verified answer.

    may it be decrypted?          access on the host chain, the registry of keys, does the Core hold the key
    is it still wanted?           an old public one may be finished already
    fetch, send, let go           the ciphertexts live only in `_fetch_and_send`
    wait for the result, check it

A row that the Core already has is only polled for: nothing is checked or fetched a second time.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs

from kmsd.core import requests, results
from kmsd.core.requests import Ciphertext
from kmsd.core.results import Result, ResultRejected
from kmsd.core.status import Phase, Verdict, refusal
from kmsd.failpoints import failpoint
from kmsd.operations.core_desk import words_of
from kmsd.operations.kinds import Kind
from kmsd.operations.outcomes import LeaseLost, Outcome, Setback, lease_of
from kmsd.operations.polling import POLL_ERRORS, clear_alert, result_of, send, was_fresh
from kmsd.operations.retry import Reason
from kmsd.operations.table import OPERATIONS, Family
from kmsd.operations.tools import Tools
from kmsd.ports import Answered, Claimed, CoreAnswer, Finished, KeyAllowance, RejectedResult, Sent, Shard
from kmsd.wire.eip712 import Domain
from kmsd.wire.errors import WireError
from kmsd.wire.handles import fhe_type_of

log = logging.getLogger("kmsd.worker")

FINISHED = "finished by others: the Gateway has enough answers (isDecryptionDone)"


@attrs.frozen
class Form:
    """What differs between the two kinds. `others_finish`: once enough parties answered, ours can only fail."""

    access: Callable[[Claimed, Tools], Awaitable[None]]
    request: Callable[[Any, Sequence[Ciphertext], Domain], Sequence[bytes]]
    check: Callable[[Any, Any, Domain, bytes | None], Result]
    others_finish: bool


async def _public_access(row: Claimed, tools: Tools) -> None:
    await tools.access.check_public(_handles(row.event))


async def _user_access(row: Claimed, tools: Tools) -> None:
    await tools.access.check_user(
        row.event, tx_hash=row.tx_hash, block_number=row.block_number, reporting_node=row.reporting_node
    )


FORMS: dict[Kind, Form] = {
    Kind.PUBLIC_DECRYPTION: Form(
        access=_public_access,
        request=lambda event, ciphertexts, domain: requests.public_decryption(
            event.decryption_id, ciphertexts, _key_id(event), domain, event.extra_data
        ),
        check=lambda reply, event, domain, signer: results.public_decryption(
            reply,
            request_id=event.decryption_id,
            handles=_handles(event),
            extra_data=event.extra_data,
            domain=domain,
            expected_signer=signer,
        ),
        others_finish=True,
    ),
    Kind.USER_DECRYPTION: Form(
        access=_user_access,
        request=lambda event, ciphertexts, domain: requests.user_decryption(
            event.decryption_id,
            ciphertexts,
            _key_id(event),
            domain,
            event.extra_data,
            event.user_address,
            event.public_key,
        ),
        check=lambda reply, event, domain, signer: results.user_decryption(
            reply,
            handles=_handles(event),
            user_address=event.user_address,
            public_key=event.public_key,
            extra_data=event.extra_data,
            domain=domain,
            expected_signer=signer,
        ),
        others_finish=False,
    ),
}


async def serve_decryption(row: Claimed, tools: Tools) -> Outcome:
    """Serve `row`. Raises Setback, or what the table of `outcomes` makes one of."""
    form = FORMS[row.kind]
    shard, is_sent = tools.core.shard_of(row)
    if is_sent:
        return await _result(row, shard, form, tools, row.refusal)
    with tools.stage("check", row):
        _must_be_decryptable(row.event)
        if not tools.grants.has(row):
            await form.access(row, tools)
            tools.grants.add(row)
        await tools.keys.must_allow(_key_id(row.event), KeyAllowance.DECRYPTION_ONLY)
        await tools.keys.must_be_there(shard, _key_id(row.event))
    async with tools.core.slot(shard):
        if form.others_finish and not await tools.gateway.is_fresh(row) and await tools.gateway.is_done(row.id):
            return Finished(lease_of(row), FINISHED)
        verdict, answer = await _fetch_and_send(row, shard, form, tools)
        if verdict is not Verdict.SENT:
            return await _turned_down(row, shard, form, tools, verdict, answer, Phase.SEND)
        fresh = was_fresh(answer)
        if not await tools.transitions.sent(Sent(lease_of(row), shard.endpoint, fresh)):
            raise LeaseLost
        return await _result(row, shard, form, tools, None if fresh else row.refusal)


async def _fetch_and_send(row: Claimed, shard: Shard, form: Form, tools: Tools) -> tuple[Verdict, CoreAnswer]:
    """Get the request to the Core. The ciphertexts live only in here (WK4)."""
    with tools.stage("fetch", row):
        payload = await tools.ciphertexts.fetch(row.event.sns_materials)
    with payload as ciphertexts, tools.stage("send", row, core=shard.endpoint):
        request = form.request(row.event, ciphertexts, tools.decryption)
        failpoint("worker.before_send")
        sent = await send(row, shard, tools, request, tools.settings.core_send_timeout)
        failpoint("worker.after_send")
        return sent


async def _turned_down(
    row: Claimed, shard: Shard, form: Form, tools: Tools, verdict: Verdict, answer: CoreAnswer, phase: Phase
) -> Outcome:
    """The Core said no: to the request, or to its result. Finished if others were quicker, else raises Setback."""
    words = f"core {shard.endpoint} answered the {phase.value} with {words_of(answer)}"
    refused = refusal(phase, Family.DECRYPTION, answer.status)
    if verdict is Verdict.COUNT_ATTEMPT:
        if form.others_finish and await tools.gateway.is_done(row.id):
            return Finished(lease_of(row), FINISHED)
        raise Setback(
            Reason.CORE_INTERNAL, words, clear_sent=phase is Phase.POLL, refusal=refused, core_shard=shard.endpoint
        )
    if verdict is Verdict.REFUSED:
        tools.keys.doubt(shard, _key_id(row.event))
        raise Setback(Reason.CORE_REFUSED, words, refusal=refused, core_shard=shard.endpoint)
    raise Setback(Reason.CORE_REJECTED, words)


async def _result(row: Claimed, shard: Shard, form: Form, tools: Tools, stored_refusal: str | None) -> Outcome:
    """Wait for the result and check it."""
    operation = OPERATIONS[row.kind]
    with tools.stage("await", row, core=shard.endpoint):
        verdict, answer = await result_of(row, shard, tools, stored_refusal)
    failpoint("worker.after_result")
    if verdict is Verdict.RESEND:
        raise Setback(Reason.CORE_FORGOT, f"core {shard.endpoint} no longer knows it", clear_sent=True)
    if verdict is not Verdict.RESULT:
        return await _turned_down(row, shard, form, tools, verdict, answer, Phase.POLL)
    try:
        result = form.check(answer.message, row.event, tools.decryption, tools.core.signer)
    except ResultRejected as rejected:
        tools.metrics.inc(POLL_ERRORS, operation.label)
        tools.metrics.inc("kms_connector_results_rejected", operation.label)
        await tools.transitions.reject(
            RejectedResult(row.kind, row.id, shard.endpoint, rejected.reason, bytes(answer.message))
        )
        raise
    tools.metrics.inc("kms_connector_worker_grpc_response_polled_counter", operation.label)
    tools.core.signed_by(shard, result.signer)
    clear_alert(row, tools.health)
    return Answered(lease_of(row), result.fields, row.otlp_context, tools.time.now())


def _handles(event: Any) -> list[bytes]:
    return [material.ct_handle for material in event.sns_materials]


def _key_id(event: Any) -> int:
    key_id: int = event.sns_materials[0].key_id
    return key_id


def _must_be_decryptable(event: Any) -> None:
    """Raise Setback for what the contract would not have asked for, and what would burn the id at the Core."""
    if not event.sns_materials:
        raise Setback(Reason.MALFORMED, "the request has no ciphertexts")
    if len({material.key_id for material in event.sns_materials}) > 1:
        raise Setback(Reason.MALFORMED, "the request's ciphertexts are under different keys")
    for handle in _handles(event):
        try:
            kind = fhe_type_of(handle)
        except WireError as error:
            raise Setback(Reason.MALFORMED, str(error)) from None
        if not kind.decryptable:
            raise Setback(Reason.MALFORMED, f"a {kind.name} cannot be decrypted (handle 0x{handle.hex()})")
