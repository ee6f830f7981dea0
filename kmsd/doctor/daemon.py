"""The doctor's look at the daemon that runs with this configuration, if one does: what its own health checks say."""

import http.client
import json
from collections.abc import Sequence

import trio

from kmsd.config import Settings
from kmsd.doctor.findings import Finding, error, ok, warning
from kmsd.observe.asking import endpoint_url, fetch


async def daemon(settings: Settings) -> Sequence[Finding]:
    """Every health check that fails there, with its own remedy; that none runs is no error."""
    subject = f"daemon on {settings.monitoring_endpoint}"
    url = endpoint_url(settings.monitoring_endpoint, "/healthz")
    try:
        _, body = await trio.to_thread.run_sync(fetch, url, abandon_on_cancel=True)
        document = json.loads(body)
        failing, healthy = document["failing"], document["healthy"]
    except ConnectionRefusedError:
        return [ok(subject, "none runs there now")]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as fault:
        words = f"something answers there, but not as kmsd does: {type(fault).__name__} {fault}"
        return [warning(subject, words, "Another program has the address? See monitoring_endpoint.")]
    found = [
        (error if one["severity"] == "critical" else warning)(
            f"{subject}: {one['check']}", str(one["words"]), str(one["remedy"])
        )
        for one in failing
    ]
    return [ok(subject, "healthy" if healthy else "running, not healthy"), *found]
