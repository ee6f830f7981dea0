"""`kmsd retry`, `kmsd fail`: an operator decides about requests."""

import sys
from collections.abc import Sequence

import click

from kmsd.commands.identify import kind_named, kind_option, name, one_kind, parse
from kmsd.commands.options import EXIT_NO, common, confirm, print_json, refuse, say, settings_for, yes_option
from kmsd.commands.progress import progress
from kmsd.config import Settings
from kmsd.operations.kinds import Kind


@click.command()
@click.argument("requests", nargs=-1, metavar="ID...")
@click.option("--unconfirmed", is_flag=True, help="Let a ceremony go that only one node has reported.")
@click.option("--all-failed", is_flag=True, help="Every failed request and response (of --kind) instead of IDs.")
@kind_option
@yes_option
@common
def retry(
    config: str | None,
    as_json: bool,
    requests: tuple[str, ...],
    unconfirmed: bool,
    all_failed: bool,
    kind_name: str | None,
    yes: bool,
) -> None:
    """Put failed requests or responses back into the queue with fresh budgets; what waits in back-off is due at once.

    Nothing is done twice: a request that the Core has is polled, a response that is on chain is recognised. A running
    kmsd takes them up within seconds. Exit 1 when one could not be retried.
    """
    from kmsd.commands.database import answer, operator_name
    from kmsd.store.operator import Changed
    from kmsd.store.postgres import PostgresStore

    if bool(requests) == all_failed or (unconfirmed and all_failed):
        raise click.UsageError("name requests, or say --all-failed")
    settings = settings_for(config, as_json, ("database_url",)).settings
    by = operator_name()
    if all_failed:
        of_kind = kind_named(kind_name)
        confirm(f"Retry every failed {'row' if of_kind is None else of_kind.value}?", yes)

        async def retry_all(store: PostgresStore) -> int:
            with progress("putting failed rows back into the queue"):
                return await store.retry_failed(of_kind, by=by)

        rows = answer(settings, retry_all, as_json)
        if as_json:
            print_json({"ok": True, "rows": rows})
        else:
            say(f"{rows} rows back in the queue")
        return
    targets = _targets(settings, requests, kind_named(kind_name), as_json)
    shown = ", ".join(name(kind, request_id) for kind, request_id in targets)
    confirm(f"Let {shown} go on the word of one node?" if unconfirmed else f"Retry {shown}?", yes)

    async def work(store: PostgresStore) -> list[Changed]:
        verb = store.retry_unconfirmed if unconfirmed else store.retry
        changes: list[Changed] = []
        with progress("requests", len(targets)) as step:
            for kind, request_id in targets:
                changes.append(await verb(kind, request_id, by=by))
                step()
        return changes

    _finish(targets, answer(settings, work, as_json), as_json)


@click.command()
@click.argument("request", metavar="ID")
@click.option("--reason", required=True, help="Why; it is kept with the request.")
@click.option("--response", "is_response", is_flag=True, help="The response that waits to be sent, not the request.")
@kind_option
@yes_option
@common
def fail(
    config: str | None,
    as_json: bool,
    request: str,
    reason: str,
    is_response: bool,
    kind_name: str | None,
    yes: bool,
) -> None:
    """Give a request (or its response) up, with a reason. `kmsd retry` undoes it.

    A verified answer that is on its way may still complete it. Exit 1 when it was in no state to be failed.
    """
    from kmsd.commands.database import answer, operator_name
    from kmsd.store.operator import Changed
    from kmsd.store.postgres import PostgresStore

    if not reason.strip():
        raise click.UsageError("--reason must say something")
    settings = settings_for(config, as_json, ("database_url",)).settings
    targets = _targets(settings, (request,), kind_named(kind_name), as_json)
    ((kind, request_id),) = targets
    confirm(f"Give up {'the response of ' if is_response else ''}{name(kind, request_id)}?", yes)

    async def work(store: PostgresStore) -> list[Changed]:
        return [await store.fail(kind, request_id, reason, by=operator_name(), is_response=is_response)]

    _finish(targets, answer(settings, work, as_json), as_json)


def _targets(settings: Settings, requests: Sequence[str], kind: Kind | None, as_json: bool) -> list[tuple[Kind, int]]:
    """The requests that exist here; one that does not ends the command before anything is changed."""
    from kmsd.commands.database import answer
    from kmsd.store.postgres import PostgresStore

    parsed = [parse(request, as_json) for request in requests]

    async def work(store: PostgresStore) -> list[list[Kind]]:
        return [[story.kind for story in await store.story(request_id, kind or by_id)] for request_id, by_id in parsed]

    known = answer(settings, work, as_json)
    return [
        (one_kind(kinds, request_id, as_json), request_id) for (request_id, _), kinds in zip(parsed, known, strict=True)
    ]


def _finish(targets: Sequence[tuple[Kind, int]], changes: Sequence[object], as_json: bool) -> None:
    """Say what became of each; the exit status is 1 when one was not changed."""
    from kmsd.store.operator import Changed

    results = [change for change in changes if isinstance(change, Changed)]
    if as_json:
        print_json(
            {
                "ok": all(change.done for change in results),
                "results": [
                    {"kind": kind.value, "id": f"{request_id:064x}", "done": change.done, "words": change.words}
                    for (kind, request_id), change in zip(targets, results, strict=True)
                ],
            }
        )
    else:
        for (kind, request_id), change in zip(targets, results, strict=True):
            say(f"{name(kind, request_id)}: {change.words}")
    if not all(change.done for change in results):
        sys.exit(EXIT_NO)


__all__ = ["fail", "refuse", "retry"]
