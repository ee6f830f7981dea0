"""A node over real sockets: deadlines, backups, batches, chain ids, and what errors never say."""

import logging
from collections.abc import AsyncIterator

import pytest
import trio
import trustme
from faulty_node import FaultyNode
from listener_world import CHAIN_ID, Chain, ChainNode

from kmsd.chain import http as chain_http
from kmsd.chain.http import HttpEndpoint, HttpFault
from kmsd.chain.node import HttpNode
from kmsd.clock import SystemTime
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import DependencyDown, RpcAnswer, RpcCall, RpcError

CHAIN_ID_CALL = RpcCall("eth_chainId", ())
HEAD = RpcCall("eth_getBlockByNumber", ("latest", False))
SECRET = "/v3/0123456789abcdef-secret"


def _answer(chain_id: int = CHAIN_ID) -> ChainNode:
    node = ChainNode("x", Chain(5))
    node.chain_id = chain_id
    return node


@pytest.fixture
async def server() -> AsyncIterator[FaultyNode]:
    """A well-behaved node at first."""
    async with FaultyNode(_answer()._answer).serving() as node:
        yield node


def _node(*urls: str, name: str = "main") -> HttpNode:
    return HttpNode(name, CHAIN_ID, urls, None, Health(SystemTime()), Metrics())


def _echo(count: int) -> list[RpcCall]:
    return [RpcCall("eth_getBlockByNumber", (hex(number % 6), False)) for number in range(count)]


def _numbers(answers: object) -> list[int]:
    assert isinstance(answers, list)
    return [int(answer.result["number"], 16) for answer in answers]


async def test_answers_come_in_the_order_of_the_calls(server: FaultyNode) -> None:
    server.shuffles = True
    node = _node(server.url)
    answers = await node.batch([*_echo(6), RpcCall("eth_nonsense", ())], deadline=5)
    assert [int(answer.result["number"], 16) for answer in answers[:6]] == list(range(6))
    assert answers[6] == RpcAnswer(None, RpcError(-32601, "the method does not exist"))
    assert await node.batch([], deadline=5) == ()


async def test_one_connection_serves_many_batches(server: FaultyNode) -> None:
    node = _node(server.url)
    for _ in range(20):
        await node.batch([HEAD], deadline=5)
    assert server.connections == 1
    assert server.calls.count("eth_chainId") == 1
    await node.close()


async def test_connections_are_bounded(server: FaultyNode) -> None:
    node = _node(server.url)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: node.batch(_echo(3), deadline=10))
    assert 1 <= server.connections <= chain_http.MAX_CONNECTIONS


async def test_chunked_bodies_large_answers_and_servers_that_close(server: FaultyNode) -> None:
    node = _node(server.url)
    server.chunked = True
    assert _numbers(await node.batch(_echo(400), deadline=5)) == [number % 6 for number in range(400)]
    server.chunked, server.closes = False, True
    server.cut_connections()
    for _ in range(3):
        assert _numbers(await node.batch(_echo(2), deadline=5)) == [0, 1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "HTTP 500"),
        ("429", "HTTP 429"),
        ("403", "HTTP 403: is the API key in its URL right?"),
        ("302", "HTTP 302"),
        ("html", "the answer is not JSON"),
        ("empty", "the answer is not JSON"),
        ("wrong id", "unknown or repeated id"),
        ("missing", "answers of the batch are missing"),
        ("cut", "connection broken during the answer"),
        ("hang", "no answer within 0.3 s"),
        ("stall", "no answer within 0.3 s"),
        ("rate limit", "rate limit exceeded"),
    ],
)
async def test_each_fault_is_the_dependency_being_down_and_heals(server: FaultyNode, fault: str, words: str) -> None:
    health = Health(SystemTime())
    node = HttpNode("main", CHAIN_ID, [server.url + SECRET], None, health, Metrics())
    await node.batch([HEAD, HEAD], deadline=5)
    if fault.isdigit():
        server.status = int(fault)
        server.body = b"<html>no</html>"
    elif fault == "html":
        server.body = b"<html>down for maintenance</html>"
    elif fault == "empty":
        server.body = b""
    elif fault == "wrong id":
        server.body = b'[{"id":0,"result":null},{"id":5,"result":null}]'
    elif fault == "missing":
        server.body = b'[{"id":0,"result":null}]'
    elif fault == "cut":
        server.cuts_after = 5
    elif fault == "hang":
        server.hangs = True
    elif fault == "stall":
        server.stall_in_body = True
    elif fault == "rate limit":
        server.body = b'{"id":null,"error":{"code":-32005,"message":"slow down"}}'
    with pytest.raises(DependencyDown) as down:
        await node.batch([HEAD, HEAD], deadline=0.3)
    assert down.value.name == "gateway node main"
    assert down.value.detail == f"{server.url} {words}" or words in down.value.detail
    assert "secret" not in str(down.value)
    assert not health.is_up("gateway node main")
    server.status, server.body, server.cuts_after = 200, None, None
    server.hangs = server.stall_in_body = False
    await node.batch([HEAD, HEAD], deadline=5)
    assert health.is_up("gateway node main")


async def test_nobody_listens() -> None:
    with pytest.raises(DependencyDown, match=r"gateway node main: http://127\.0\.0\.1:1 cannot connect"):
        await _node("http://127.0.0.1:1/key").batch([HEAD], deadline=2)


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(DependencyDown, match=r"http://nowhere\.invalid:8545 (cannot connect|no answer)"):
        await _node("http://nowhere.invalid:8545/key").batch([HEAD], deadline=3)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "localhost:8545", "http://x:99999999", "ws://x"])
def test_unusable_urls_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as error:
        _node(url + SECRET if "//" in url else url)
    assert "secret" not in str(error.value)


async def test_an_answer_larger_than_the_bound_is_not_read(server: FaultyNode) -> None:
    server.body = b"[" + b" " * 100_000 + b"]"
    endpoint = HttpEndpoint(server.url, max_body=50_000)
    with pytest.raises(HttpFault, match="larger than 50000 bytes"):
        await endpoint.post(b"[]")


async def test_a_connection_that_the_peer_closed_while_idle_is_replaced(server: FaultyNode) -> None:
    node = _node(server.url)
    await node.batch([HEAD], deadline=5)
    server.cut_connections()
    await trio.testing.wait_all_tasks_blocked(0.01)
    await node.batch([HEAD], deadline=5)
    assert server.connections == 2
    assert server.calls.count("eth_chainId") == 2, "a reconnect is greeted too"


async def test_credentials_of_the_url_are_sent_and_never_shown(server: FaultyNode) -> None:
    url = server.url.replace("http://", "http://user:p%40ss@") + SECRET + "?token=abc"
    node = _node(url)
    await node.batch([HEAD], deadline=5)
    assert server.headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert server.target == SECRET + "?token=abc"
    server.status = 500
    with pytest.raises(DependencyDown) as down:
        await node.batch([HEAD], deadline=5)
    assert str(down.value) == f"gateway node main: {server.url} HTTP 500"


async def test_nothing_is_logged_of_a_url(server: FaultyNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    node = _node(server.url + SECRET)
    await node.batch([HEAD], deadline=5)
    server.batch_limit = 1
    await node.batch([HEAD, HEAD, HEAD], deadline=5)
    server.status = 500
    with pytest.raises(DependencyDown):
        await node.batch([HEAD], deadline=5)
    assert "secret" not in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Backups


async def test_backups_are_asked_in_order_of_health(server: FaultyNode) -> None:
    async with FaultyNode(_answer()._answer).serving() as backup:
        node = _node(server.url, backup.url)
        await node.batch([HEAD], deadline=5)
        assert (server.requests, backup.requests) == (2, 0)
        server.status = 503
        for _ in range(5):
            await node.batch([HEAD], deadline=5)
        assert backup.requests == 6
        assert server.requests == 3, "the sick one is left alone for a while"
        backup.status = 503
        server.status = 200
        await node.batch([HEAD], deadline=5)


async def test_a_hanging_main_url_leaves_time_for_the_backup(server: FaultyNode) -> None:
    server.hangs = True
    async with FaultyNode(_answer()._answer).serving() as backup:
        node = _node(server.url, backup.url)
        with trio.fail_after(1.0):
            await node.batch([HEAD], deadline=0.8)


async def test_all_down_names_each(server: FaultyNode) -> None:
    server.status = 503
    with pytest.raises(DependencyDown) as down:
        await _node(server.url, "http://127.0.0.1:1").batch([HEAD], deadline=2)
    assert down.value.detail == f"{server.url} HTTP 503; http://127.0.0.1:1 cannot connect (Connection refused)"


# ---------------------------------------------------------------------------------------------------------------------
# Chain ids


@pytest.mark.guarantee("EV8")
async def test_a_node_on_another_chain_is_refused_with_its_name_and_both_ids() -> None:
    async with FaultyNode(_answer(chain_id=5)._answer).serving() as wrong:
        node = _node(wrong.url + SECRET)
        for _ in range(3):
            with pytest.raises(DependencyDown) as down:
                await node.batch([HEAD], deadline=5)
            assert str(down.value) == (
                f"gateway node main: {wrong.url} is on chain 5, but the configuration says {CHAIN_ID}: "
                "correct the URL or the chain id"
            )
    assert "eth_getBlockByNumber" not in wrong.calls, "nothing else is asked of it"


@pytest.mark.guarantee("EV8")
async def test_a_node_that_comes_back_on_another_chain_is_refused(server: FaultyNode) -> None:
    node = _node(server.url)
    await node.batch([HEAD], deadline=5)
    server.answer = _answer(chain_id=7)._answer
    server.cut_connections()
    with pytest.raises(DependencyDown, match=f"is on chain 7, but the configuration says {CHAIN_ID}"):
        await node.batch([HEAD], deadline=5)
    server.answer = _answer()._answer
    await node.batch([HEAD], deadline=5)


@pytest.mark.guarantee("EV8")
async def test_a_backup_on_another_chain_is_refused_like_the_main_url(server: FaultyNode) -> None:
    server.status = 503
    async with FaultyNode(_answer(chain_id=5)._answer).serving() as backup:
        with pytest.raises(DependencyDown, match=r"HTTP 503; .* is on chain 5"):
            await _node(server.url, backup.url).batch([HEAD], deadline=5)


@pytest.mark.parametrize("garbage", [b"<html>", b'{"id":0,"result":null}', b'{"id":0,"error":{"code":-32601}}'])
async def test_a_node_that_does_not_tell_its_chain_is_down(server: FaultyNode, garbage: bytes) -> None:
    server.body_for = lambda method: garbage if method == "eth_chainId" else None
    with pytest.raises(DependencyDown):
        await _node(server.url).batch([HEAD], deadline=5)


# ---------------------------------------------------------------------------------------------------------------------
# Batches


@pytest.mark.parametrize("style", ["object", "list"])
@pytest.mark.parametrize("limit", [0, 1, 3, 40])
async def test_a_node_that_takes_small_batches_or_none(server: FaultyNode, style: str, limit: int) -> None:
    server.batch_limit, server.refusal_style = limit, style
    node = _node(server.url)
    assert _numbers(await node.batch(_echo(100), deadline=10)) == [number % 6 for number in range(100)]
    requests = server.requests
    await node.batch(_echo(100), deadline=10)
    assert server.requests - requests <= 100 // max(1, limit // 2) + 1, "the limit is remembered"


async def test_a_batch_refused_by_status_is_asked_in_parts(server: FaultyNode) -> None:
    node = _node(server.url)
    await node.batch([HEAD], deadline=5)
    json = server._json

    def too_large(asked: object) -> bytes:
        server.status = 413 if isinstance(asked, list) and len(asked) > 10 else 200
        return json(asked)

    server._json = lambda asked: b"too large" if too_large(asked) and server.status == 413 else json(asked)  # type: ignore[method-assign]
    assert len(await node.batch(_echo(50), deadline=5)) == 50


async def test_a_json_rpc_error_under_a_4xx_status_is_an_answer(server: FaultyNode) -> None:
    node = _node(server.url)
    await node.batch([HEAD], deadline=5)
    server.status = 400
    server.body = b'{"id":1,"error":{"code":-32602,"message":"range too large"}}'
    assert await node.batch([HEAD], deadline=5) == [RpcAnswer(None, RpcError(-32602, "range too large"))]


async def test_single_calls_in_order_where_a_caller_may_rely_on_it(server: FaultyNode) -> None:
    server.batch_limit = 0
    await _node(server.url).batch(
        [
            HEAD,
            RpcCall("eth_getLogs", ({"fromBlock": "0x1", "toBlock": "0x2", "address": "0x", "topics": [[]]},)),
            HEAD,
        ],
        deadline=5,
    )
    assert server.calls[-3:] == ["eth_getBlockByNumber", "eth_getLogs", "eth_getBlockByNumber"]


async def test_a_fault_among_many_single_calls_is_one_error(server: FaultyNode) -> None:
    server.batch_limit = 0
    server.body_for = lambda method: b"<html>" if method == "eth_gasPrice" else None
    with pytest.raises(DependencyDown, match="not JSON"):
        await _node(server.url).batch([*_echo(30), RpcCall("eth_gasPrice", ())], deadline=5)


# ---------------------------------------------------------------------------------------------------------------------
# TLS


async def test_tls_is_verified(tmp_path: object) -> None:
    import ssl

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with FaultyNode(_answer()._answer).serving(context) as server:
        with pytest.raises(DependencyDown, match=r"TLS failure \(CERTIFICATE_VERIFY_FAILED\)"):
            await _node(server.url).batch([HEAD], deadline=5)
        endpoint = HttpEndpoint(server.url, tls=trusting)
        for _ in range(2):
            reply = await endpoint.post(b'{"id":1,"method":"eth_chainId","params":[]}')
            assert reply.status == 200
        assert server.connections == 2


async def test_metrics_count_requests_calls_and_errors(server: FaultyNode) -> None:
    metrics = Metrics()
    node = HttpNode("main", CHAIN_ID, [server.url], None, Health(SystemTime()), metrics)
    await node.batch([HEAD, HEAD, CHAIN_ID_CALL], deadline=5)
    server.status = 500
    with pytest.raises(DependencyDown):
        await node.batch([HEAD], deadline=5)
    assert metrics.value("kms_connector_rpc_requests", "main") == 1
    assert metrics.value("kms_connector_rpc_errors", "main") == 1
    assert metrics.value("kms_connector_rpc_calls", "main", "eth_getBlockByNumber") == 2
