"""Heads pushed by a node: `eth_subscribe("newHeads")` over WebSocket.

A subscription only says *look now*; it ends at the first doubt, and whoever follows it polls meanwhile. Any message
counts as life: trio-websocket's own ping stalls while nobody reads, so a quiet node is asked `eth_blockNumber` instead,
and one that stays silent after that is dead.
"""

import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import trio
import trio_websocket

from kmsd.chain import jsonrpc
from kmsd.chain.http import default_tls
from kmsd.chain.jsonrpc import BadAnswer
from kmsd.ports import DependencyDown, Head, RpcCall
from kmsd.redact import endpoint as shown

log = logging.getLogger("kmsd.chain.subscription")

CONNECT_TIMEOUT = 5.0
"""Seconds for connecting, and again for checking the chain id and subscribing."""
QUIET = 15.0
"""Seconds without a message after which the node is asked for life; as long again, and the subscription ends."""
MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of a message: some chains put long lists into their headers."""
MAX_WAITING = 64
"""Heads that wait unread before the peer is held back."""

_PROBE, _CHAIN_ID, _SUBSCRIBE = 0, 1, 2

_FAULTS = (
    OSError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio_websocket.HandshakeError,
    trio_websocket.ConnectionClosed,
    trio_websocket.ConnectionTimeout,
    BadAnswer,
)

# It logs a traceback at ERROR for what its caller learns by an exception anyway, with the URL's path in it.
logging.getLogger("trio-websocket").setLevel(logging.CRITICAL)


@asynccontextmanager
async def subscribe_heads(url: str, chain_id: int, dependency: str) -> AsyncIterator[AsyncIterator[Head]]:
    """Connect, check the chain id (EV8), subscribe, and give the heads until the connection ends.

    Raises DependencyDown in the name of `dependency` when that does not succeed; the words hold no path of the URL.
    """
    subscribed = False
    try:
        async with trio_websocket.open_websocket_url(
            url,
            default_tls() if urlsplit(url).scheme == "wss" else None,
            extra_headers=_authorization(url),
            message_queue_size=MAX_WAITING,
            max_message_size=MAX_MESSAGE,
            connect_timeout=CONNECT_TIMEOUT,
            disconnect_timeout=1.0,
        ) as connection:
            with trio.fail_after(CONNECT_TIMEOUT):
                actual = jsonrpc.quantity(await _ask(connection, RpcCall("eth_chainId", ()), _CHAIN_ID), "chain id")
                if actual != chain_id:
                    raise BadAnswer(f"it is on chain {actual}, but the configuration says {chain_id}")
                subscription = await _ask(connection, RpcCall("eth_subscribe", ("newHeads",)), _SUBSCRIBE)
            subscribed = True
            yield _Heads(connection, subscription)
    except trio_websocket.DisconnectionTimeout:
        log.debug("%s did not say good-bye", dependency)
    except _FAULTS as error:
        if subscribed:
            raise
        words = str(error) if isinstance(error, BadAnswer) else type(error).__name__
        raise DependencyDown(dependency, f"no heads from {shown(url)}: {words}") from None


def _authorization(url: str) -> list[tuple[bytes, bytes]]:
    parts = urlsplit(url)
    if parts.username is None:
        return []
    userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [(b"Authorization", b"Basic " + b64encode(userinfo.encode()))]


async def _ask(connection: Any, call: RpcCall, call_id: int) -> Any:
    """The result of one call; other messages that come meanwhile are passed over."""
    await connection.send_message(jsonrpc.encode_call(call, call_id).decode())
    while True:
        message = _parsed(await connection.get_message())
        if message.get("id") == call_id:
            if "result" not in message:
                raise BadAnswer(f"{call.method} was answered with an error")
            return message["result"]


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BadAnswer("a message is not JSON") from None
    if not isinstance(message, dict):
        raise BadAnswer("a message is no object")
    return message


class _Heads:
    """The heads of one subscription; ends with its connection."""

    def __init__(self, connection: Any, subscription: Any) -> None:
        self._connection = connection
        self._subscription = subscription

    def __aiter__(self) -> "_Heads":
        return self

    async def __anext__(self) -> Head:
        while True:
            try:
                text = await self._next_message()
                message = _parsed(text) if text is not None else None
                if message is None:
                    raise StopAsyncIteration
                params = message.get("params")
                if isinstance(params, dict) and params.get("subscription") == self._subscription:
                    return jsonrpc.head(params.get("result"))
            except (trio_websocket.ConnectionClosed, trio.BrokenResourceError):
                raise StopAsyncIteration from None
            except BadAnswer as bad:
                log.warning("subscription ended: %s", bad)
                raise StopAsyncIteration from None

    async def _next_message(self) -> str | bytes | None:
        """The next message, None after two periods of silence."""
        message: str | bytes
        with trio.move_on_after(QUIET):
            message = await self._connection.get_message()
            return message
        with trio.move_on_after(QUIET):
            await self._connection.send_message(jsonrpc.encode_call(RpcCall("eth_blockNumber", ()), _PROBE).decode())
            message = await self._connection.get_message()
            return message
        return None
