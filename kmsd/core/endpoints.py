"""Core endpoints as an operator writes them, and the TLS context for `https://` ones (decisions.md 15)."""

import re
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

import attrs

from kmsd.config import CoreTls
from kmsd.ports import Shard

DEFAULT_PORT = 50100
"""The Core's service port where the endpoint names none."""


class BadEndpoint(ValueError):
    """An endpoint of `kms_core_endpoints` that cannot be used; the text names it and says why."""


@attrs.frozen
class Endpoint:
    """Where one Core listens. `text` is what the operator wrote."""

    text: str
    host: str
    port: int
    tls: bool


def parse_endpoint(text: str) -> Endpoint:
    """Parse `http://host:port` or `https://host:port` (IPv6 in brackets, port 50100 if absent). Raises BadEndpoint."""
    shown = repr(re.sub(r"//[^/]*@", "//…@", text))
    try:
        parts = urlsplit(text)
        port = parts.port if parts.port is not None else DEFAULT_PORT
    except ValueError:
        raise BadEndpoint(f"kms_core_endpoints: {shown} is not a URL with a port from 1 to 65535") from None
    if parts.scheme not in ("http", "https"):
        raise BadEndpoint(f"kms_core_endpoints: {shown} must begin with http:// or https://")
    if not parts.hostname or port == 0:
        raise BadEndpoint(f"kms_core_endpoints: {shown} names no host or no usable port")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise BadEndpoint(f"kms_core_endpoints: {shown} has more than a scheme, a host and a port")
    return Endpoint(text, parts.hostname, port, parts.scheme == "https")


def parse_shards(entries: Sequence[str]) -> tuple[Shard, ...]:
    """Shards of `kms_core_endpoints`, each entry `endpoint` or `endpoint|backup`, in order. Raises BadEndpoint."""
    shards: list[Shard] = []
    for index, entry in enumerate(entries):
        texts = [text.strip() for text in entry.split("|")]
        if len(texts) > 2:
            raise BadEndpoint(f"kms_core_endpoints: {entry!r} has more than one backup")
        for text in texts:
            parse_endpoint(text)
        shards.append(Shard(index, texts[0], texts[1] if len(texts) == 2 else None))
    primaries = [shard.endpoint for shard in shards]
    if len(set(primaries)) != len(primaries):
        raise BadEndpoint("kms_core_endpoints: an endpoint is listed twice; a request's shard would be ambiguous")
    return tuple(shards)


def tls_context(tls: CoreTls) -> ssl.SSLContext:
    """A client context that trusts `tls.ca` (the system's authorities if None) and shows `tls.cert` if given.

    Raises BadEndpoint naming the key whose file cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca)
    except OSError as error:
        raise BadEndpoint(f"kms_core_tls.ca: cannot use {tls.ca}: {error}") from None
    if (tls.cert is None) != (tls.key is None):
        raise BadEndpoint("kms_core_tls: cert and key go together")
    if tls.cert is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key)
        except OSError as error:
            raise BadEndpoint(f"kms_core_tls.cert/key: cannot use {tls.cert} with {tls.key}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
