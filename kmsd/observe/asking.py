"""Asking a running daemon over its monitoring endpoint; blocking, for commands.

With the standard library: a container's health check starts a process every few seconds, and httpx would take a fifth
of a second of CPU to import each time.
"""

import http.client
from urllib.parse import urlsplit

DEADLINE = 5.0
"""Seconds for the whole question."""
MAX_ANSWER = 16_000_000
"""Bytes read of an answer."""


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
        return answer.status, answer.read(MAX_ANSWER)
    finally:
        connection.close()
