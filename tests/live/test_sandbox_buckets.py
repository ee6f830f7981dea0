"""The bucket server, as clients meet it over sockets."""

import gzip
import http.client
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from kmsd.sandbox.bucket_faults import BEHAVIOURS
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.ciphertexts import clear_value, fake_ciphertext, read_fake_ciphertext
from kmsd.wire.keccak import keccak256

SIZE = 98_844
HANDLE = bytes(range(21)) + bytes(9) + b"\x05\x00"


class Served(NamedTuple):
    """What a GET brought."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buckets]:
    with Buckets(tmp_path_factory.mktemp("buckets")) as running:
        yield running


@pytest.fixture
def digest(buckets: Buckets) -> bytes:
    """An object that every bucket serves."""
    return buckets.add_ciphertext(HANDLE, clear_value(HANDLE), SIZE)


@pytest.fixture
def bucket(buckets: Buckets, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket of the test's own, healed afterwards."""
    name = f"b{abs(hash(request.node.nodeid))}"
    yield name
    buckets.heal(name)


def get(buckets: Buckets, bucket: str, key: bytes | str, method: str = "GET") -> Served:
    connection = http.client.HTTPConnection("127.0.0.1", buckets.port, timeout=20)
    try:
        connection.request(method, f"/{bucket}/{key.hex() if isinstance(key, bytes) else key}")
        answer = connection.getresponse()
        return Served(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def ask(buckets: Buckets, bucket: str, key: bytes) -> socket.socket:
    """A connection with a GET on its way."""
    connection = socket.create_connection(("127.0.0.1", buckets.port), timeout=20)
    connection.sendall(f"GET /{bucket}/{key.hex()} HTTP/1.1\r\nhost: buckets\r\n\r\n".encode())
    return connection


def until_stuck(buckets: Buckets, bucket: str, number: int) -> dict[str, Any]:
    """The bucket's counts, once so many GETs stand under a fault."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        counts: dict[str, Any] = buckets.stats()["buckets"].get(bucket, {"stuck": 0})
        if counts["stuck"] == number:
            return counts
    raise AssertionError(f"never {number} stuck")


def test_a_ciphertext_is_served_under_its_digest_by_every_bucket(buckets: Buckets, digest: bytes) -> None:
    body = fake_ciphertext(HANDLE, clear_value(HANDLE), SIZE)
    assert digest == keccak256(body)
    for bucket in ("one", "another"):
        served = get(buckets, bucket, digest)
        assert (served.status, served.body) == (200, body)
        assert served.headers["x-amz-meta-ct-format"] == "compressed_on_cpu"
    assert get(buckets, "one", "0x" + digest.hex().upper()).body == body
    head = get(buckets, "one", digest, "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(SIZE), b"")


def test_formats_and_the_clear_value_travel_in_the_object(buckets: Buckets) -> None:
    recipes: list[dict[str, Any]] = [
        {"handle": HANDLE.hex(), "value": 7, "format": "compressed_on_cpu"},
        {"handle": "0x" + HANDLE.hex(), "value": 8, "format": "uncompressed_on_cpu"},
        {"handle": HANDLE.hex(), "value": 9, "format": None},
    ]
    served = [get(buckets, "formats", digest) for digest in buckets.add_objects(recipes)]
    assert [one.headers.get("x-amz-meta-ct-format") for one in served] == [one["format"] for one in recipes]
    read = [read_fake_ciphertext(one.body) for one in served]
    assert [(one.format, one.value) for one in read if one] == [(2, 7), (3, 8), (3, 9)]


def test_an_object_may_stand_in_one_bucket_or_under_a_wrong_digest(buckets: Buckets) -> None:
    own = buckets.add_ciphertext(HANDLE, 1, 200, bucket="mine")
    assert (get(buckets, "mine", own).status, get(buckets, "yours", own).status) == (200, 404)
    wrong = keccak256(b"something else")
    assert buckets.add_ciphertext(HANDLE, 2, 200, digest=wrong.hex()) == wrong
    assert keccak256(get(buckets, "mine", wrong).body) != wrong
    buckets.put("mine", wrong.hex(), b"raw", "compressed_on_gpu")
    assert get(buckets, "mine", wrong).body == b"raw"
    assert get(buckets, "yours", wrong).body != b"raw"
    assert get(buckets, "mine", wrong, "DELETE").status == 204
    assert get(buckets, "mine", wrong).body != b"raw"


def test_a_refused_recipe_says_why(buckets: Buckets) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        buckets.add_ciphertext(HANDLE, 1 << 64)
    with pytest.raises(ValueError, match="unknown fault 'tired'"):
        buckets.set_fault("b", "tired")
    with pytest.raises(ValueError, match="above zero"):
        buckets.set_fault("b", "slow", bytes_per_second=0)


def test_one_connection_serves_many_requests_in_order(buckets: Buckets) -> None:
    """Keep-alive and pipelining: three requests at once, the middle one under a fault."""
    digests = buckets.add_objects({"handle": HANDLE.hex(), "value": n, "size": 1000 + n} for n in range(3))
    buckets.set_faults("chain", [{"kind": "status", "status": 503, "keys": [digests[1].hex()]}])
    before = buckets.stats()["connections_total"]
    with socket.create_connection(("127.0.0.1", buckets.port), timeout=20) as connection:
        connection.sendall(b"".join(f"GET /chain/{one.hex()} HTTP/1.1\r\n\r\n".encode() for one in digests))
        reader = connection.makefile("rb")
        answers = []
        for _ in digests:
            status = reader.readline()
            head = http.client.parse_headers(reader)
            answers.append((status.split()[1], len(reader.read(int(head["content-length"])))))
    assert [answer[0] for answer in answers] == [b"200", b"503", b"200"]
    assert [answers[0][1], answers[2][1]] == [1000, 1002]
    assert buckets.stats()["connections_total"] - before == 2  # this one and the second question for the counts


def test_answers_that_are_whole_but_wrong(buckets: Buckets, bucket: str, digest: bytes) -> None:
    right = get(buckets, bucket, digest).body

    def under(kind: str, **parameters: Any) -> Served:
        buckets.set_fault(bucket, kind, **parameters)
        return get(buckets, bucket, digest)

    assert under("status", status=404).status == 404
    assert under("status", status=500).status == 500
    wrong = under("wrong_bytes")
    assert (len(wrong.body), wrong.body == right) == (SIZE, False)
    announced = under("oversize_announced", size=300_000)
    assert (announced.headers["content-length"], len(announced.body)) == ("300000", 300_000)
    streamed = under("oversize_streamed", size=300_000)
    assert (streamed.headers["transfer-encoding"], len(streamed.body)) == ("chunked", 300_000)
    assert "content-length" not in streamed.headers
    assert under("chunked").body == right
    packed = under("gzip", size=5_000_000)
    assert len(packed.body) < 50_000
    assert len(gzip.decompress(packed.body)) == 5_000_000
    moved = under("redirect", location="http://127.0.0.1:1/elsewhere")
    assert (moved.status, moved.headers["location"]) == (302, "http://127.0.0.1:1/elsewhere")
    bare = under("no_format")
    assert (bare.body == right, "x-amz-meta-ct-format" in bare.headers) == (True, False)
    assert under("format", format="steam").headers["x-amz-meta-ct-format"] == "steam"
    buckets.heal(bucket)
    assert get(buckets, bucket, digest).body == right


def test_answers_that_never_end(buckets: Buckets, bucket: str, digest: bytes) -> None:
    expected = {"silent": 0, "stall": 5000, "slow": 1}
    parameters: dict[str, dict[str, Any]] = {"stall": {"after_bytes": 5000}, "slow": {"bytes_per_second": 20}}
    for kind, least in expected.items():
        buckets.set_fault(bucket, kind, **parameters.get(kind, {}))
        with ask(buckets, bucket, digest) as connection:
            until_stuck(buckets, bucket, 1)
            arrived = b""
            while least and len(arrived.partition(b"\r\n\r\n")[2]) < least:
                arrived += connection.recv(65536)
            assert len(arrived) < SIZE
            connection.setblocking(False)
            if kind != "slow":
                with pytest.raises(BlockingIOError):
                    connection.recv(1)
            assert until_stuck(buckets, bucket, 1)["faults"][kind] == 1
        until_stuck(buckets, bucket, 0)


def test_connections_that_break(buckets: Buckets, bucket: str, digest: bytes) -> None:
    for after in (0, 1000):
        buckets.set_fault(bucket, "reset", after_bytes=after)
        with ask(buckets, bucket, digest) as connection, pytest.raises(ConnectionResetError):
            connection.makefile("rb").read()
    buckets.set_fault(bucket, "truncated", after_bytes=1000)
    with pytest.raises(http.client.IncompleteRead, match="1000 bytes read"):
        get(buckets, bucket, digest)


def test_a_fault_hits_what_it_names(buckets: Buckets, bucket: str, digest: bytes) -> None:
    other = buckets.add_ciphertext(HANDLE, 9, 300)
    buckets.set_faults(bucket, [{"kind": "status", "status": 503, "times": 2, "keys": [digest.hex()]}])
    assert [get(buckets, bucket, other).status, get(buckets, "healthy", digest).status] == [200, 200]
    assert [get(buckets, bucket, digest).status for _ in range(3)] == [503, 503, 200]
    buckets.set_fault(None, "status", status=429)
    try:
        assert [get(buckets, name, other).status for name in (bucket, "healthy")] == [429, 429]
    finally:
        buckets.heal(None)
    counts = buckets.stats()["buckets"][bucket]
    assert counts["statuses"] == {"200": 2, "503": 2, "429": 1}
    assert counts["faults"] == {"status": 3}


def test_every_fault_is_documented() -> None:
    text = Path(__file__).parents[2].joinpath("kmsd/sandbox/bucket_faults.py").read_text().rpartition('"""Kind')[2]
    assert all(kind in text for kind in BEHAVIOURS)


def test_generated_bodies_are_kept_within_a_bound(tmp_path: Path) -> None:
    with Buckets(tmp_path, cache_mib=1) as small:
        digests = small.add_objects({"handle": HANDLE.hex(), "value": n, "size": SIZE} for n in range(40))
        for _ in range(2):
            assert all(keccak256(get(small, "b", digest).body) == digest for digest in digests)
        stats = small.stats()
        assert 0 < stats["cached_bytes"] <= 1 << 20
        assert stats["objects"] == 40


def test_https_and_a_clean_end(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key, root = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    with Buckets(tmp_path, tls=(certificate, key)) as running:
        digest = running.add_ciphertext(HANDLE, 3, 5000)
        context = ssl.create_default_context(cafile=str(root))
        connection = http.client.HTTPSConnection("localhost", running.tls_port, timeout=20, context=context)
        connection.request("GET", f"/b/{digest.hex()}")
        assert keccak256(connection.getresponse().read()) == digest
        connection.close()
        assert running.url_of("b", tls=True) == f"https://localhost:{running.tls_port}/b"
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /b/k HTTP/1.1\r\ncontent-length: 1\r\n\r\nx",
        b"PUT /b/k HTTP/1.1\r\ncontent-length: minus\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /_faults HTTP/1.1\r\ncontent-length: 2\r\n\r\n[]",
        b"GET /_nothing HTTP/1.1\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_bad_requests_are_answered(buckets: Buckets, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", buckets.port), timeout=20) as connection:
        connection.sendall(request_bytes)
        assert connection.recv(65536).split()[1].startswith(b"4")
    assert json.dumps(buckets.stats())
