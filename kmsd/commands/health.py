"""`kmsd health`: ask a running daemon; for people, scripts and container health checks."""

import http.client
import json
import sys
from urllib.parse import urlsplit

import click

from kmsd.commands.options import EXIT_NO, common, print_json, refuse, say, settings_for
from kmsd.observe.asking import endpoint_url, fetch


@click.command()
@click.option("-e", "--endpoint", metavar="URL", help="Another daemon's; by default from monitoring_endpoint.")
@click.option("--live", is_flag=True, help="Only whether it lives (/liveness), not whether its dependencies do.")
@common
def health(config: str | None, as_json: bool, endpoint: str | None, live: bool) -> None:
    """Ask the running daemon how it is. Exit 0 when healthy, 1 when not or when nobody answers."""
    path = "/liveness" if live else "/healthz"
    if endpoint is None:
        endpoint = endpoint_url(settings_for(config, as_json, ()).settings.monitoring_endpoint, path)
    elif urlsplit(endpoint).path in ("", "/"):
        endpoint = endpoint.rstrip("/") + path
    try:
        status, body = fetch(endpoint)
        document = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        refuse(f"no answer from {endpoint.rpartition('/')[0]}: {error}; is kmsd running there?", as_json)
    if as_json:
        print_json(document)
    else:
        say("healthy" if status == 200 else "NOT healthy")
        for finding in document.get("failing", []):
            say(f"  {finding['severity']:<8} {finding.get('title', finding['check'])}: {finding['words']}")
            say(f"           → {finding['remedy']}")
    sys.exit(0 if status == 200 else EXIT_NO)
