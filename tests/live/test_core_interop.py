"""Our client and our double against Google's gRPC implementation: neither only understands the other."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures

import core_asking as ask
import grpc
import pytest
import trio
import trustme

from kmsd.config import CoreTls
from kmsd.core import requests
from kmsd.core.client import open_core
from kmsd.core.methods import CORE_SERVICE, METHODS
from kmsd.core.pb.kms import v1 as kms
from kmsd.ports import CoreMethod, Shard, StatusCode
from kmsd.sandbox.core_double_process import RunningDouble, running_double

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Answer = Callable[[str, bytes, grpc.ServicerContext], bytes]


class _Service(grpc.GenericRpcHandler):
    """Every method, as bytes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._answer(method, data, context))


class Server:
    """A grpcio server on a free port; `answer` may be replaced."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, **options: int) -> None:
        self.answer: Answer = lambda method, data, context: data
        executor = futures.ThreadPoolExecutor(max_workers=8)
        self.server = grpc.server(executor, options=[*UNLIMITED, *(options.items())])
        self.server.add_generic_rpc_handlers([_Service(lambda *call: self.answer(*call))])
        if credentials is None:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()

    @property
    def shard(self) -> Shard:
        return Shard(0, f"http://127.0.0.1:{self.port}")


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.server.stop(None).wait()


async def test_messages_headers_and_deadline(server: Server) -> None:
    seen: list[tuple[str, int, float]] = []

    def answer(method: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append((method, len(data), context.time_remaining()))
        return bytes(kms.Empty())

    server.answer = answer
    async with open_core((server.shard,)) as core:
        for size in (0, 1, 16_384, 65_536, 1_000_000, 1_100_000, 5_000_000):
            answered = await core.call(server.shard, CoreMethod.PUBLIC_DECRYPT, [b"a", bytes(size)], deadline=30)
            assert answered.status is StatusCode.OK, answered
    assert [size for _, size, _ in seen] == [1, 2, 16_385, 65_537, 1_000_001, 1_100_001, 5_000_001]
    assert {method for method, _, _ in seen} == {METHODS[CoreMethod.PUBLIC_DECRYPT].path}
    assert all(20 < remaining <= 30 for _, _, remaining in seen)


async def test_large_replies(server: Server) -> None:
    payload = kms.PublicDecryptionResponsePayload(verification_key=bytes(30_000_000))
    reply = bytes(kms.PublicDecryptionResponse(payload=payload))
    server.answer = lambda method, data, context: reply
    async with open_core((server.shard,)) as core:
        answer = await core.call(server.shard, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, requests.poll(1), deadline=30)
    assert answer.message.payload == payload


@pytest.mark.parametrize("status", [status for status in StatusCode if status is not StatusCode.OK])
async def test_statuses_and_words(server: Server, status: StatusCode) -> None:
    code = next(code for code in grpc.StatusCode if code.value[0] == status)
    server.answer = lambda method, data, context: context.abort(code, "kein Platz für 100 %")
    async with open_core((server.shard,)) as core:
        answer = await core.call(server.shard, CoreMethod.KEY_GEN, b"", deadline=30)
    assert (answer.status, answer.detail) == (status, "kein Platz für 100 %")


async def test_many_calls_at_once_under_a_stream_limit() -> None:
    server = Server(**{"grpc.max_concurrent_streams": 3})
    server.answer = lambda method, data, context: b""
    async with open_core((server.shard,)) as core:
        statuses: list[StatusCode] = []

        async def call() -> None:
            answer = await core.call(server.shard, CoreMethod.USER_DECRYPT, bytes(30_000), deadline=30)
            statuses.append(answer.status)

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(call)
    assert statuses == [StatusCode.OK] * 60
    server.server.stop(None).wait()


async def test_a_cancelled_call_is_cancelled_there(server: Server) -> None:
    ended = threading.Event()

    def answer(method: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(ended.set)
        ended.wait(20)
        return b""

    server.answer = answer
    async with open_core((server.shard,)) as core:
        with trio.move_on_after(0.3):
            await core.call(server.shard, CoreMethod.CRS_GEN, b"", deadline=30)
        assert await trio.to_thread.run_sync(ended.wait, 10)


async def test_a_server_that_goes_away_politely(server: Server) -> None:
    """GOAWAY, then the port is closed: UNAVAILABLE, and the next server on the port is found."""
    server.answer = lambda method, data, context: b""
    async with open_core((server.shard,)) as core:
        assert (await core.call(server.shard, CoreMethod.KEY_GEN, b"", deadline=10)).status is StatusCode.OK
        await trio.to_thread.run_sync(server.server.stop(None).wait)
        answer = await core.call(server.shard, CoreMethod.KEY_GEN, b"", deadline=10)
        assert answer.status is StatusCode.UNAVAILABLE


async def test_tls_with_grpcio(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("interop")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    server = Server(grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)]))
    server.answer = lambda method, data, context: b""
    shard = Shard(0, f"https://localhost:{server.port}")
    async with open_core((shard,), tls=CoreTls(ca=str(folder / "ca.pem"))) as core:
        answer = await core.call(shard, CoreMethod.PUBLIC_DECRYPT, [bytes(3_000_000)], deadline=20)
    assert answer.status is StatusCode.OK, answer
    server.server.stop(None).wait()


# ---------------------------------------------------------------------------------------------------------------------
# The double, asked by grpcio


@pytest.fixture
async def double() -> AsyncIterator[RunningDouble]:
    async with running_double("--key", ask.KEY_TEXT, "--latency-ms", "1", "--long-poll", "0.2") as running:
        yield running


async def test_the_double_answers_grpcio(double: RunningDouble) -> None:
    def ask_it() -> tuple[bytes, bytes, list[int]]:
        with grpc.insecure_channel(f"127.0.0.1:{double.port}", options=UNLIMITED) as channel:

            def call(method: str, data: bytes) -> bytes:
                answer: bytes = channel.unary_unary(f"/{CORE_SERVICE}/{method}")(data, timeout=20)
                return answer

            sent = call("PublicDecrypt", b"".join(ask.public(1)))
            result = call("GetPublicDecryptionResult", requests.poll(ask.public_id(1)))
            codes = []
            for method, data in (
                ("GetPublicDecryptionResult", requests.poll(ask.public_id(2))),
                ("NoSuchMethod", b""),
                ("PublicDecrypt", b"".join(ask.public(1))),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(method, data)
                codes.append(caught.value.code().value[0])
            large = b"".join(ask.public(3, ciphertexts=ask.ciphertexts(5_000_000)))
            call("PublicDecrypt", large)
            return sent, result, codes

    sent, result, codes = await trio.to_thread.run_sync(ask_it)
    assert sent == b""
    ask.check_public(kms.PublicDecryptionResponse.parse(result), 1, double.signer)
    assert codes == [5, 12, 6]
    assert (await double.stats())["open_calls"] == 0
