"""Waiting for a result: long polls of the Core until it says something other than "not yet".

What the answers mean is the table of `kmsd.core.status`; here is only the patience.
"""

import math

import trio

from kmsd.core import requests
from kmsd.core.status import Phase, Verdict, is_burnt, verdict
from kmsd.observe.health import Health
from kmsd.operations.core_desk import words_of
from kmsd.operations.outcomes import Setback, tries_before
from kmsd.operations.retry import SLOW, SOON, Reason
from kmsd.operations.table import OPERATIONS, Family
from kmsd.operations.tools import Tools
from kmsd.ports import Claimed, CoreAnswer, Shard, StatusCode
from kmsd.wire import ids

AT_ONCE = 1.0
"""A poll that is answered "not yet" sooner than after so many seconds did not wait at the Core."""
QUICK_POLLS = 3
"""Such answers in a row, or polls without any answer, after which the request goes back to the queue."""
PATIENCE: dict[Family, float] = {Family.DECRYPTION: 600.0, Family.CEREMONY: math.inf}
"""Seconds of polling in one go; then others get their turn."""
BUSY_PATIENCE = 30.0
"""Seconds of asking a busy Core again before the request goes back to the queue."""

SEND_ERRORS = "kms_connector_worker_grpc_request_sent_errors"
POLL_ERRORS = "kms_connector_worker_grpc_response_polled_errors"


async def result_of(row: Claimed, shard: Shard, tools: Tools, stored_refusal: str | None) -> tuple[Verdict, CoreAnswer]:
    """Poll until there is a verdict that decides something: RESULT, RESEND, COUNT_ATTEMPT, FAIL, …

    `stored_refusal` is that of an earlier send which may have burnt the id. Raises Setback for what only takes time.
    """
    operation = OPERATIONS[row.kind]
    assert operation.poll is not None
    request = requests.poll(row.id)
    began = trio.current_time()
    quick = busy = 0
    while True:
        asked = trio.current_time()
        answer = await tools.core.ask(shard, operation.poll, request, deadline=tools.settings.core_poll_timeout)
        now = trio.current_time()
        # A Core that holds the id lets a poll wait; silence that only our side's deadline ended says nothing.
        waited = now - asked >= AT_ONCE and not answer.local
        if is_burnt(answer.status, stored_refusal) and (waited or answer.status is StatusCode.ALREADY_EXISTS):
            raise burnt(row, shard, tools, stored_refusal)
        meaning = verdict(Phase.POLL, operation.family, answer.status)
        if meaning is Verdict.BUSY:
            busy += 1
            if now - began > BUSY_PATIENCE:
                raise Setback(Reason.CORE_BUSY, f"core {shard.endpoint} is busy: {words_of(answer)}", outage=True)
            await trio.sleep(SOON.delay(busy, tools.entropy.random()) / 4.0)
        elif meaning is Verdict.POLL_AGAIN:
            quick = 0 if waited else quick + 1
            if quick >= QUICK_POLLS:
                raise Setback(
                    Reason.CORE_UNREACHABLE, f"core {shard.endpoint}: {words_of(answer)} to a poll", outage=True
                )
            if now - began > PATIENCE[operation.family]:
                raise Setback(Reason.CORE_NOT_READY, f"core {shard.endpoint} has no result after {now - began:.0f} s")
            if quick:
                await trio.sleep(SOON.delay(quick, tools.entropy.random()) / 8.0)
        elif meaning is Verdict.PAUSE_SHARD:
            raise unusable(shard, answer)
        else:
            if meaning is not Verdict.RESULT:
                tools.metrics.inc(POLL_ERRORS, operation.label)
            return meaning, answer


async def send(
    row: Claimed, shard: Shard, tools: Tools, request: object, deadline: float
) -> tuple[Verdict, CoreAnswer]:
    """Send until there is a verdict that decides something: SENT, REFUSED, COUNT_ATTEMPT, FAIL, SLOW_RETRY_ALERT.

    A busy Core is asked again for a while, with the request at hand. Raises Setback for the rest.
    """
    operation = OPERATIONS[row.kind]
    began = trio.current_time()
    busy = 0
    while True:
        answer = await tools.core.ask(shard, operation.send, request, deadline=deadline)
        meaning = verdict(Phase.SEND, operation.family, answer.status)
        if meaning is Verdict.SENT:
            tools.metrics.inc("kms_connector_worker_grpc_request_sent_counter", operation.label)
            return meaning, answer
        tools.metrics.inc(SEND_ERRORS, operation.label)
        words = f"core {shard.endpoint}, {operation.send}: {words_of(answer)}"
        if meaning is Verdict.BUSY:
            busy += 1
            if operation.family is Family.CEREMONY or trio.current_time() - began > BUSY_PATIENCE:
                raise Setback(Reason.CORE_BUSY, words, outage=True)
            await trio.sleep(SOON.delay(busy, tools.entropy.random()) / 4.0)
        elif meaning is Verdict.RETRY:
            raise Setback(Reason.CORE_UNREACHABLE, words, outage=True, status=answer.status)
        elif meaning is Verdict.PAUSE_SHARD:
            raise unusable(shard, answer)
        else:
            return meaning, answer


def unusable(shard: Shard, answer: CoreAnswer) -> Setback:
    """The Core is not usable: nobody's fault but its own."""
    return Setback(Reason.CORE_UNUSABLE, f"core {shard.endpoint} is not usable: {words_of(answer)}", outage=True)


def burnt(row: Claimed, shard: Shard, tools: Tools, stored_refusal: str | None) -> Setback:
    """The Core refused an earlier send and holds the id ever since (decisions.md 13): alert, poll slowly."""
    operation = OPERATIONS[row.kind]
    words = (
        f"burnt at core {shard.endpoint}: it refused an earlier send with {stored_refusal} and now neither takes the "
        "request nor gives a result; only a restart of that Core frees the id"
    )
    tools.metrics.inc("kms_connector_burnt_ids", operation.label)
    tools.health.alert(alert_key(row), f"{alert_key(row)}: {words}")
    return Setback(Reason.BURNT, words, mark_sent=True, delay=SLOW.delay(tries_before(row), tools.entropy.random()))


def alert_key(row: Claimed) -> str:
    """Under which key alerts about one request stand."""
    return f"request {row.kind.value} {ids.short(row.id)}"


def clear_alert(row: Claimed, health: Health) -> None:
    """The request got on after all."""
    health.clear(alert_key(row))


def was_fresh(answer: CoreAnswer) -> bool:
    """Whether a send was taken just now, as opposed to having been taken before."""
    return answer.status is StatusCode.OK
