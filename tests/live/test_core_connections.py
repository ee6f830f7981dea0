"""Connections to a Core under faults: stopped and killed peers, backups, TLS, servers that are no Core (WK3, WK5)."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import attrs
import core_asking as ask
import pytest
import trio
import trustme

from kmsd.config import CoreTls
from kmsd.core import requests
from kmsd.core.client import GrpcCore, open_core
from kmsd.core.connection import STREAMS_PER_CONNECTION
from kmsd.core.endpoints import parse_shards, tls_context
from kmsd.core.link import Patience
from kmsd.ports import CoreAnswer, CoreMethod, Shard, StatusCode
from kmsd.sandbox.core_double_process import RunningDouble, running_double

OPTIONS = ("--key", ask.KEY_TEXT, "--latency-ms", "1")
POLL = (CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(ask.public_id(1)))


async def _public(core: GrpcCore, number: int, deadline: float = 20.0) -> CoreAnswer:
    return await core.call(core.shards[0], CoreMethod.PUBLIC_DECRYPT, ask.public(number), deadline=deadline)


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110  # another process can only be asked
            await trio.sleep(0.02)


@attrs.frozen
class Certificates:
    """PEM files of one authority: the double's and ours."""

    ca: str
    server: tuple[str, str]
    client: CoreTls

    @property
    def server_options(self) -> tuple[str, ...]:
        return ("--tls-cert", self.server[0], "--tls-key", self.server[1])


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("core-tls")
    authority = trustme.CA()
    ca = str(folder / "ca.pem")
    authority.cert_pem.write_to_path(ca)

    def issue(name: str, identity: str) -> tuple[str, str]:
        issued = authority.issue_cert(identity)
        chain, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        Path(chain).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return chain, key

    cert, key = issue("client", "kmsd@party.example")
    return Certificates(ca, issue("server", "127.0.0.1"), CoreTls(ca=ca, cert=cert, key=key))


# ---------------------------------------------------------------------------------------------------------------------
# Stopped, killed, restarted


@pytest.mark.guarantee("WK3")
@pytest.mark.parametrize("secure", [False, True], ids=["clear text", "TLS"])
async def test_a_stopped_core_is_noticed_within_10_s(certificates: Certificates, secure: bool) -> None:
    """SIGSTOP: the kernel still takes our bytes, nobody answers. The call ends long before its own deadline."""
    options = (*OPTIONS, *certificates.server_options) if secure else OPTIONS
    async with (
        running_double(*options, "--latency-ms", "60000") as double,
        open_core(parse_shards((double.endpoint,)), tls=certificates.client) as core,
    ):
        assert (await _public(core, 1)).status is StatusCode.OK
        answers: list[CoreAnswer] = []

        async def poll() -> None:
            answers.append(await core.call(core.shards[0], *POLL, deadline=75))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await _until(lambda: _open_calls(double, 1))
            double.stop()
            began = trio.current_time()
        took = trio.current_time() - began
        assert answers[0].status is StatusCode.UNAVAILABLE
        assert took < 10
        double.resume()
        assert (await _public(core, 2)).status is StatusCode.OK


async def _open_calls(double: RunningDouble, number: int) -> bool:
    return bool((await double.stats())["open_calls"] >= number)


async def test_a_stopped_core_in_the_middle_of_a_large_request() -> None:
    """With unsent bytes a polite close would never end."""
    patience = Patience(quiet=0.3, ping=0.5)
    async with (
        running_double(*OPTIONS) as double,
        open_core(parse_shards((double.endpoint,)), patience=patience) as core,
    ):
        assert (await _public(core, 1)).status is StatusCode.OK
        double.stop()
        with trio.fail_after(10):
            large = ask.public(2, ciphertexts=ask.ciphertexts(20_000_000))
            answer = await core.call(core.shards[0], CoreMethod.PUBLIC_DECRYPT, large, deadline=75)
        assert answer.status is StatusCode.UNAVAILABLE
        double.resume()


async def test_long_polls_of_a_living_core_are_not_cut() -> None:
    """Silence is no death: pings are answered while a poll blocks."""
    patience = Patience(quiet=0.05, ping=0.5)
    async with (
        running_double(*OPTIONS, "--latency-ms", "60000", "--long-poll", "2") as double,
        open_core(parse_shards((double.endpoint,)), patience=patience) as core,
    ):
        assert (await _public(core, 1)).status is StatusCode.OK
        answer = await core.call(core.shards[0], *POLL, deadline=30)
        assert (answer.status, answer.detail) == (StatusCode.UNAVAILABLE, "not ready")


async def test_a_core_that_is_killed_in_a_poll_and_started_again() -> None:
    async with running_double(*OPTIONS, "--latency-ms", "60000") as double:
        port = str(double.port)
        async with open_core(parse_shards((double.endpoint,))) as core:
            assert (await _public(core, 1)).status is StatusCode.OK
            answers: list[CoreAnswer] = []

            async def poll() -> None:
                answers.append(await core.call(core.shards[0], *POLL, deadline=75))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await _until(lambda: _open_calls(double, 1))
                await double.kill()
            assert answers[0].status is StatusCode.UNAVAILABLE
            assert (await _public(core, 1)).status is StatusCode.UNAVAILABLE
            async with running_double(*OPTIONS, "--port", port):
                assert (await core.call(core.shards[0], *POLL, deadline=20)).status is StatusCode.NOT_FOUND
                assert (await _public(core, 1)).status is StatusCode.OK


async def test_many_polls_use_more_connections_than_one() -> None:
    """A server that allows 100 streams on a connection would make the 101st poll wait for a minute."""
    number = STREAMS_PER_CONNECTION * 2 + 50
    async with (
        running_double(*OPTIONS, "--latency-ms", "60000", "--long-poll", "3") as double,
        open_core(parse_shards((double.endpoint,))) as core,
    ):
        assert (await _public(core, 1)).status is StatusCode.OK
        async with trio.open_nursery() as nursery:
            for _ in range(number):

                async def poll() -> None:
                    assert (await core.call(core.shards[0], *POLL, deadline=30)).status is StatusCode.UNAVAILABLE

                nursery.start_soon(poll)
        assert (await double.stats())["most_open_calls"] == number


# ---------------------------------------------------------------------------------------------------------------------
# Backup


@pytest.fixture
async def pair() -> AsyncIterator[tuple[RunningDouble, RunningDouble]]:
    async with running_double(*OPTIONS) as primary, running_double(*OPTIONS) as backup:
        yield primary, backup


async def test_the_backup_serves_while_the_primary_is_dead(
    pair: tuple[RunningDouble, RunningDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.core.client.PROBE_INTERVAL", 0.1)
    primary, backup = pair
    async with open_core(parse_shards((f"{primary.endpoint}|{backup.endpoint}",))) as core:
        assert (await _public(core, 1)).status is StatusCode.OK
        assert (await backup.stats())["calls"] == {}
        port = str(primary.port)
        await primary.kill()
        assert (await _public(core, 2)).status is StatusCode.UNAVAILABLE  # blames nobody; the next try goes on

        async def served() -> bool:
            return (await _public(core, 3)).status in (StatusCode.OK, StatusCode.ALREADY_EXISTS)

        await _until(served)
        assert core.states()[0].on_backup
        assert core.states()[0].endpoint == backup.endpoint
        assert core.shards[0].endpoint == primary.endpoint  # what is stored with the row stays the same
        async with running_double(*OPTIONS, "--port", port) as again:

            async def returned() -> bool:
                return not core.states()[0].on_backup

            await _until(returned)
            assert (await _public(core, 4)).status is StatusCode.OK
            assert "PublicDecrypt" in (await again.stats())["calls"]


async def test_a_stopped_primary_is_left_too(
    pair: tuple[RunningDouble, RunningDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.core.client.PROBE_INTERVAL", 0.1)
    primary, backup = pair
    patience = Patience(quiet=0.2, ping=0.5)
    shards = parse_shards((f"{primary.endpoint}|{backup.endpoint}",))
    async with open_core(shards, patience=patience, health_deadline=0.5) as core:
        assert (await _public(core, 1)).status is StatusCode.OK
        primary.stop()

        async def served() -> bool:
            return (await _public(core, 2)).status is StatusCode.OK

        await _until(served)
        assert core.states()[0].on_backup
        primary.resume()


async def test_two_shards_do_not_touch_each_other(pair: tuple[RunningDouble, RunningDouble]) -> None:
    first, second = pair
    async with open_core(parse_shards((first.endpoint, second.endpoint))) as core:
        await first.kill()
        answer = await core.call(core.shards[1], CoreMethod.PUBLIC_DECRYPT, ask.public(1), deadline=10)
        assert answer.status is StatusCode.OK
        assert (await _public(core, 1)).status is StatusCode.UNAVAILABLE


# ---------------------------------------------------------------------------------------------------------------------
# TLS


async def test_tls_with_our_own_authority(certificates: Certificates) -> None:
    async with running_double(*OPTIONS, *certificates.server_options) as double:
        assert double.endpoint.startswith("https://")
        async with open_core(parse_shards((double.endpoint,)), tls=CoreTls(ca=certificates.ca)) as core:
            assert (await _public(core, 1)).status is StatusCode.OK
            answer = await core.call(core.shards[0], *POLL, deadline=10)
            ask.check_public(answer.message, 1, double.signer)


async def test_mutual_tls(certificates: Certificates) -> None:
    options = (*OPTIONS, *certificates.server_options, "--client-ca", certificates.ca)
    async with running_double(*options) as double:
        shards = parse_shards((double.endpoint,))
        async with open_core(shards, tls=certificates.client) as core:
            assert (await _public(core, 1)).status is StatusCode.OK
        async with open_core(shards, tls=CoreTls(ca=certificates.ca)) as core:
            assert (await _public(core, 2)).status is StatusCode.UNAVAILABLE


async def test_a_stranger_certificate_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with running_double(*OPTIONS, *certificates.server_options) as double:
        shards = parse_shards((double.endpoint,))
        async with open_core(shards, tls=CoreTls(ca=str(other))) as core:
            answer = await _public(core, 1)
            assert answer.status is StatusCode.UNAVAILABLE
            assert "certificate" in answer.detail.lower()
        # the right authority, another name
        named = (Shard(0, double.endpoint.replace("127.0.0.1", "localhost")),)
        async with open_core(named, tls=CoreTls(ca=certificates.ca)) as core:
            answer = await _public(core, 1)
            assert answer.status is StatusCode.UNAVAILABLE
            assert "certificate" in answer.detail.lower()


async def test_clear_text_to_a_tls_port_and_the_other_way(certificates: Certificates) -> None:
    patience = Patience(connect=1.0, quiet=0.2, ping=0.5)
    async with running_double(*OPTIONS, *certificates.server_options) as double:
        shards = (Shard(0, double.endpoint.replace("https", "http")),)
        async with open_core(shards, patience=patience) as core:
            assert (await _public(core, 1)).status is StatusCode.UNAVAILABLE
    async with running_double(*OPTIONS) as double:
        shards = (Shard(0, double.endpoint.replace("http", "https")),)
        async with open_core(shards, tls=CoreTls(ca=certificates.ca), patience=patience) as core:
            assert (await _public(core, 1)).status is StatusCode.UNAVAILABLE


# ---------------------------------------------------------------------------------------------------------------------
# Peers that are no Core

Peer = Callable[[trio.SocketStream], Awaitable[None]]


async def _ask_a_peer(peer: Peer, deadline: float = 10.0) -> CoreAnswer:
    patience = Patience(connect=1.0, quiet=0.2, ping=0.5)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, peer, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with open_core((Shard(0, f"http://127.0.0.1:{port}"),), patience=patience) as core:
            answer = await _public(core, 1, deadline)
            again = await _public(core, 1, deadline)
            assert again.status is answer.status
        nursery.cancel_scope.cancel()
    return answer


async def _silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def _closes_at_once(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def _speaks_http1(stream: trio.SocketStream) -> None:
    await stream.receive_some(100)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await stream.aclose()


async def _noise(stream: trio.SocketStream) -> None:
    try:
        while True:
            await stream.send_all(bytes(range(256)) * 16)
    except trio.BrokenResourceError:
        pass


async def _half_a_handshake(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\0\0\0\x04\0\0\0\0\0")  # empty SETTINGS
    await stream.receive_some(65536)
    await stream.send_all(b"\0\0\x08\x07\0\0\0\0\0" + bytes(8))  # GOAWAY
    await stream.aclose()


async def _unknown_frame(stream: trio.SocketStream) -> None:
    await stream.send_all(b"\0\0\0\x04\0\0\0\0\0")
    await stream.receive_some(65536)
    await stream.send_all(b"\0\0\x01\xee\0\0\0\0\0x")  # a frame type that does not exist
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "peer",
    [_silent, _closes_at_once, _speaks_http1, _noise, _half_a_handshake, _unknown_frame],
    ids=lambda p: p.__name__,
)
async def test_peers_that_are_no_core(peer: Peer) -> None:
    with trio.fail_after(20):
        answer = await _ask_a_peer(peer)
    assert answer.status is StatusCode.UNAVAILABLE


async def test_a_dead_name() -> None:
    async with open_core((Shard(0, "http://no-such-host.invalid:1"),)) as core:
        assert (await _public(core, 1)).status is StatusCode.UNAVAILABLE


async def test_leaving_ends_open_calls_without_delay() -> None:
    async with running_double(*OPTIONS, "--latency-ms", "60000") as double:
        with trio.fail_after(5):
            async with open_core(parse_shards((double.endpoint,))) as core, trio.open_nursery() as nursery:
                assert (await _public(core, 1)).status is StatusCode.OK
                nursery.start_soon(lambda: core.call(core.shards[0], *POLL, deadline=60))
                await _until(lambda: _open_calls(double, 1))
                nursery.cancel_scope.cancel()


def test_the_context_verifies(certificates: Certificates) -> None:
    context = tls_context(certificates.client)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
