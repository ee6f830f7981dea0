"""`kmsd health`: ask a running daemon; for people, scripts and container health checks."""

import http.client
import json
import sys
from urllib.parse import urlsplit

import click

from kmsd.commands.options import EXIT_NO, common, print_json, refuse, say, settings_for

DEADLINE = 5.0
"""Seconds for the whole question."""


def endpoint_url(address: str, path: str) -> str:
    """URL of `path` for a daemon that listens on `host:port`; a wildcard address is asked on the loopback one."""
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{host}:{port}{path}"


def fetch(url: str) -> tuple[int, bytes]:
    """Status and body of a GET. Raises OSError or http.client.HTTPException."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise OSError("it must be http://host:port")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=DEADLINE)
    try:
        connection.request("GET", parts.path or "/healthz")
        answer = connection.getresponse()
        return answer.status, answer.read(16_000_000)
    finally:
        connection.close()


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
