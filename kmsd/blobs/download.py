"""The `Blobs` port for real: bounded downloads over HTTP, HTTPS and S3."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import SplitResult, urljoin, urlsplit

import trio

from kmsd.blobs.http_get import DEFAULT_PORTS, BucketConnections, Reply
from kmsd.blobs.s3_urls import S3Signer
from kmsd.config import Settings
from kmsd.ports import Blob, BlobFault, BlobUnavailable

MAX_REDIRECTS = 3
"""Hops that one download follows."""
MAX_URL = 4096
"""Characters of a URL that comes from outside."""


class BlobsMisconfigured(Exception):
    """A key of the configuration that cannot be used; the text names it."""


@asynccontextmanager
async def open_blobs(settings: Settings) -> AsyncIterator["HttpBlobs"]:
    """The port until the block is left. Raises BlobsMisconfigured."""
    try:
        blobs = HttpBlobs(settings)
    except OSError as error:
        raise BlobsMisconfigured(f"s3_ca_file: cannot use {settings.s3_ca_file}: {error}") from None
    try:
        yield blobs
    finally:
        with trio.CancelScope(shield=True):
            await blobs.close()


class HttpBlobs:
    """Downloads objects; at most `s3_max_concurrent_gets` at a time.

    Peers at private addresses are refused unless `allow_private_buckets` is set or the operator named their host
    (`s3_fallback_urls`, `s3_endpoint`). A cancelled or late download's connection is cut.
    Raises OSError from the constructor for an `s3_ca_file` that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        gets, connect, read = settings.s3_max_concurrent_gets, settings.s3_connect_timeout, settings.s3_read_timeout
        self._turns = trio.CapacityLimiter(gets)
        self._refuse_private = not settings.allow_private_buckets
        self._connections = BucketConnections(kept=gets, ca_file=settings.s3_ca_file, connect=connect, read=read)
        named = [urlsplit(url) for url in (*settings.s3_fallback_urls, settings.s3_endpoint) if url]
        self._trusted_origins = frozenset(_origin(parts) for parts in named if parts.scheme in DEFAULT_PORTS)
        self._signer = S3Signer(endpoint=settings.s3_endpoint, region=settings.s3_region, connect=connect, read=read)

    async def close(self) -> None:
        """Close the kept connections."""
        await self._connections.close()

    @property
    def active(self) -> int:
        """Downloads under way."""
        return int(self._turns.borrowed_tokens)

    async def get(self, url: str, *, max_bytes: int, patience: float) -> Blob:
        """GET `url` within `patience` seconds, not counting the wait for a turn.

        Raises BlobUnavailable; never returns more than `max_bytes` bytes.
        """
        turn = object()
        try:
            self._turns.acquire_on_behalf_of_nowait(turn)
        except trio.WouldBlock:
            await self._turns.acquire_on_behalf_of(turn)
        try:
            with trio.move_on_after(patience):
                return await self._follow(url, max_bytes)
            raise BlobUnavailable(BlobFault.DEADLINE, f"{patience:g} s")
        finally:
            self._turns.release_on_behalf_of(turn)

    async def _follow(self, url: str, max_bytes: int) -> Blob:
        for _ in range(MAX_REDIRECTS + 1):
            reply = await (self._get_s3 if url.startswith("s3://") else self._get_http)(url, max_bytes)
            if reply.status == 200:
                return Blob(reply.body, reply.keccak, reply.format)
            if reply.status in (404, 410):
                raise BlobUnavailable(BlobFault.NOT_FOUND)
            if reply.location is None:
                raise BlobUnavailable(BlobFault.HTTP_STATUS, str(reply.status))
            url = _redirected(url, reply.location)
        raise BlobUnavailable(BlobFault.HTTP_STATUS, f"more than {MAX_REDIRECTS} redirects")

    async def _get_http(self, url: str, max_bytes: int) -> Reply:
        parts = _parsed(url)
        refuse_private = self._refuse_private and _origin(parts) not in self._trusted_origins
        return await self._connections.get(parts, max_bytes=max_bytes, refuse_private=refuse_private)

    async def _get_s3(self, url: str, max_bytes: int) -> Reply:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        for last in (False, True):
            signed = await trio.to_thread.run_sync(self._signer.sign, bucket, key, abandon_on_cancel=True)
            reply = await self._connections.get(_parsed(signed), max_bytes=max_bytes, refuse_private=False)
            if reply.region is None or last or not self._signer.learn_region(bucket, reply.region):
                break
        return reply._replace(location=None)  # a signed request is not taken elsewhere


def _parsed(url: str) -> SplitResult:
    """The parts of `url`. Raises BlobUnavailable(BAD_URL) for one that must not or cannot be asked."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BlobUnavailable(BlobFault.BAD_URL) from None
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise BlobUnavailable(BlobFault.BAD_URL, "too long, or characters that no URL has")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise BlobUnavailable(BlobFault.BAD_URL, "neither http, https nor s3, or without a host")
    if "@" in parts.netloc:
        raise BlobUnavailable(BlobFault.BAD_URL, "holds credentials")
    return parts


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. From https only to https; the next request checks the rest."""
    try:
        target = urljoin(url, location)
    except ValueError:
        raise BlobUnavailable(BlobFault.BAD_URL, "redirect") from None
    if not target.startswith("https://" if url.startswith("https://") else ("http://", "https://")):
        raise BlobUnavailable(BlobFault.BAD_URL, "redirect to another scheme")
    return target


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
