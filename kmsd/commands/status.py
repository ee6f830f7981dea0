"""`kmsd status`: everything at a glance, from the database and from the running daemon."""

import http.client
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from kmsd.commands.options import EXIT_NO, EXIT_UNAVAILABLE, common, print_json, settings_for
from kmsd.config import Settings
from kmsd.observe.asking import endpoint_url, fetch

REFRESH = 1.0
"""Seconds between refreshes of `--watch`."""
PLAIN_WIDTH = 160
"""Columns where there is no terminal."""


@click.command()
@click.option("--watch", is_flag=True, help="Refresh in place until interrupted.")
@common
def status(config: str | None, as_json: bool, watch: bool) -> None:
    """Queues by kind and state with their oldest age, nodes with head, cursor and lag, wallet, Core, dependencies.

    Counts come from the database, the rest from the running daemon. Exit 0 when both answer and the daemon is healthy,
    1 when it is not, 69 when neither answers.
    """
    settings = settings_for(config, as_json, ("database_url",)).settings
    if watch and not as_json:
        _watch(settings)
    document = gather(settings)
    if as_json:
        print_json(document)
    else:
        from kmsd.commands.status_view import render

        _console().print(render(document))
    sys.exit(exit_status(document))


def exit_status(document: Mapping[str, Any]) -> int:
    """What the command says to a script."""
    daemon, database = document["daemon"], document["database"]
    if "error" in daemon and "error" in database:
        return EXIT_UNAVAILABLE
    return 0 if daemon.get("healthz", {}).get("healthy") and "error" not in database else EXIT_NO


def gather(settings: Settings) -> dict[str, Any]:
    """The daemon's `/status` and the database's counts; each has an `error` instead when it does not answer."""
    return {
        "daemon": _from_daemon(settings.monitoring_endpoint),
        "database": _from_database(settings),
    }


def _from_daemon(address: str) -> dict[str, Any]:
    url = endpoint_url(address, "/status")
    try:
        code, body = fetch(url)
        document = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {"error": f"no kmsd answers on {address}: {error}"}
    return document if code == 200 and isinstance(document, dict) else {"error": f"{url} answered {code}"}


def _from_database(settings: Settings) -> dict[str, Any]:
    from kmsd.commands.database import ask, down_words
    from kmsd.ports import Backlog, DependencyDown, Store

    async def backlog(store: Store) -> Backlog:
        return await store.backlog()

    try:
        found = ask(settings, backlog)
    except DependencyDown as down:
        return {"error": down_words(down)}
    return {
        "queues": [
            {
                "kind": count.kind.value,
                "queue": "response" if count.is_response else "request",
                "state": count.status,
                "rows": count.rows,
                "oldest_age_seconds": round(count.oldest_age, 1),
            }
            for count in found.counts
        ],
        "quarantined": found.quarantined,
        "unconfirmed": found.unconfirmed,
    }


def _watch(settings: Settings) -> None:
    from rich.live import Live

    from kmsd.commands.status_view import render

    try:
        with Live(render(gather(settings)), console=_console(), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH)
                live.update(render(gather(settings)), refresh=True)
    except KeyboardInterrupt:
        sys.exit(0)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
