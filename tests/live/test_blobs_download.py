"""Downloads from real buckets over HTTP, HTTPS and S3: every fault of a bucket, every bound (WK2, WK3, WK4)."""

import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
from s3_double import S3Double

from kmsd.blobs.download import BlobsMisconfigured, HttpBlobs, open_blobs
from kmsd.config import Contract, HostChain, Settings
from kmsd.ports import Blob, BlobFault, BlobUnavailable
from kmsd.sandbox.bucket_faults import BEHAVIOURS
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.handles import clear_value, make_handle
from kmsd.wire.keccak import keccak256

HANDLE = make_handle(1, 12345, 5)
SIZE = 300_000
LIMIT = 1_000_000
PATIENCE = 20.0
READ = 0.5
SECRETS = {"AKIDEXAMPLE": "secret/key+of=ours"}


@attrs.frozen
class Served:
    """The buckets with one object in each of them, and the authority of their certificate."""

    buckets: Buckets
    digest: bytes
    ca_file: str

    def url(self, bucket: str, *, tls: bool = False) -> str:
        return f"{self.buckets.url_of(bucket, tls=tls)}/{self.digest.hex()}"

    def gets(self, bucket: str) -> int:
        counts = self.buckets.stats()["buckets"].get(bucket)
        return 0 if counts is None else int(counts["gets"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("buckets")
    authority = trustme.CA()
    ca, chain, key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    authority.cert_pem.write_to_path(str(ca))
    issued = authority.issue_cert("localhost")
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    with Buckets(folder, tls=(chain, key)) as buckets:
        yield Served(buckets, buckets.add_ciphertext(HANDLE, clear_value(HANDLE), SIZE), str(ca))


def settings(**changes: Any) -> Settings:
    plain: dict[str, Any] = {
        "database_url": "postgresql://nowhere/none",
        "gateway_chain_id": 1,
        "decryption_contract": Contract(bytes(20), "Decryption"),
        "kms_generation_contract": Contract(bytes(20), "KMSGeneration"),
        "gateway_config_contract": Contract(bytes(20), "GatewayConfig"),
        "host_chains": (HostChain(12345, "http://host", bytes(20)),),
        "allow_private_buckets": True,
        "s3_connect_timeout": 1.0,
        "s3_read_timeout": READ,
    }
    return Settings(**(plain | changes))


@pytest.fixture
async def blobs() -> AsyncIterator[HttpBlobs]:
    async with open_blobs(settings()) as opened:
        yield opened


async def fault_of(blobs: HttpBlobs, url: str, *, max_bytes: int = LIMIT, patience: float = PATIENCE) -> BlobFault:
    """Why the object could not be had."""
    with pytest.raises(BlobUnavailable) as info:
        await blobs.get(url, max_bytes=max_bytes, patience=patience)
    return info.value.fault


# ---------------------------------------------------------------------------------------------------------------------
# The good way


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_an_object_comes_with_its_hash_and_format(served: Served, tls: bool) -> None:
    async with open_blobs(settings(s3_ca_file=served.ca_file)) as blobs:
        blob = await blobs.get(served.url("good", tls=tls), max_bytes=SIZE, patience=PATIENCE)
    assert len(blob.body) == SIZE
    assert blob.keccak == served.digest == keccak256(blob.body)
    assert blob.format == "compressed_on_cpu"


async def test_connections_are_kept_and_downloads_go_side_by_side(served: Served) -> None:
    before = served.buckets.stats()["connections_total"]
    async with open_blobs(settings(s3_max_concurrent_gets=3)) as blobs, trio.open_nursery() as nursery:

        async def get_ten() -> None:
            for _ in range(10):
                await blobs.get(served.url("kept"), max_bytes=SIZE, patience=PATIENCE)
                assert blobs.active <= 3

        for _ in range(8):
            nursery.start_soon(get_ten)
    connections = served.buckets.stats()["connections_total"] - before - 1  # one asked for these counts
    assert connections <= 3
    assert served.gets("kept") == 80


# ---------------------------------------------------------------------------------------------------------------------
# Every fault of a bucket

FAULTS: list[tuple[str, dict[str, Any], BlobFault]] = [
    ("status", {"status": 404}, BlobFault.NOT_FOUND),
    ("status", {"status": 410}, BlobFault.NOT_FOUND),
    ("status", {"status": 403}, BlobFault.HTTP_STATUS),
    ("status", {"status": 429}, BlobFault.HTTP_STATUS),
    ("status", {"status": 500}, BlobFault.HTTP_STATUS),
    ("status", {"status": 503}, BlobFault.HTTP_STATUS),
    ("status", {"status": 204}, BlobFault.HTTP_STATUS),
    ("stall", {"after_bytes": 100_000}, BlobFault.STALLED),
    ("stall", {"after_bytes": 0}, BlobFault.STALLED),
    ("silent", {}, BlobFault.STALLED),
    ("oversize_announced", {}, BlobFault.TOO_LARGE),
    ("oversize_streamed", {}, BlobFault.TOO_LARGE),
    ("redirect", {"location": ""}, BlobFault.HTTP_STATUS),
    ("redirect", {"location": "ftp://127.0.0.1/x"}, BlobFault.BAD_URL),
    ("redirect", {"location": "file:///etc/passwd"}, BlobFault.BAD_URL),
    ("redirect", {"location": "http://user:secret@127.0.0.1/x"}, BlobFault.BAD_URL),
    ("redirect", {"location": "http://127.0.0.1:9/x"}, BlobFault.CONNECT),
    ("reset", {"after_bytes": 0}, BlobFault.BROKEN),
    ("reset", {"after_bytes": 100_000}, BlobFault.BROKEN),
    ("truncated", {"after_bytes": 100_000}, BlobFault.BROKEN),
]


@pytest.mark.guarantee("WK2", "WK3")
@pytest.mark.parametrize(
    ("kind", "parameters", "expected"), FAULTS, ids=[f"{kind}-{number}" for number, (kind, _, _) in enumerate(FAULTS)]
)
async def test_faults_are_told_apart(
    served: Served, blobs: HttpBlobs, kind: str, parameters: dict[str, Any], expected: BlobFault
) -> None:
    bucket = f"{kind}-{len(str(parameters))}"
    served.buckets.set_fault(bucket, kind, **parameters)
    assert await fault_of(blobs, served.url(bucket)) is expected
    served.buckets.heal(bucket)
    assert (await blobs.get(served.url(bucket), max_bytes=SIZE, patience=PATIENCE)).keccak == served.digest


@pytest.mark.guarantee("WK3")
async def test_a_bucket_that_trickles_meets_the_total_deadline(served: Served, blobs: HttpBlobs) -> None:
    served.buckets.set_fault("slow", "slow", bytes_per_second=10_000)
    began = trio.current_time()
    assert await fault_of(blobs, served.url("slow"), patience=1.0) is BlobFault.DEADLINE
    assert trio.current_time() - began < 15.0, "300,000 bytes would take 30 s"
    assert blobs.active == 0


async def test_a_slow_bucket_within_its_patience_is_no_fault(served: Served, blobs: HttpBlobs) -> None:
    served.buckets.set_fault("leisurely", "slow", bytes_per_second=600_000)
    blob = await blobs.get(served.url("leisurely"), max_bytes=SIZE, patience=PATIENCE)
    assert blob.keccak == served.digest


@pytest.mark.guarantee("WK2")
async def test_wrong_bytes_have_another_hash(served: Served, blobs: HttpBlobs) -> None:
    served.buckets.set_fault("wrong", "wrong_bytes")
    blob = await blobs.get(served.url("wrong"), max_bytes=SIZE, patience=PATIENCE)
    assert blob.keccak == keccak256(blob.body) != served.digest


@pytest.mark.parametrize(("kind", "parameters", "word"), [("no_format", {}, None), ("format", {"format": "x"}, "x")])
async def test_the_format_header_is_given_as_it_is(
    served: Served, blobs: HttpBlobs, kind: str, parameters: dict[str, Any], word: str | None
) -> None:
    served.buckets.set_fault(kind, kind, **parameters)
    assert (await blobs.get(served.url(kind), max_bytes=SIZE, patience=PATIENCE)).format == word


async def test_a_chunked_body_is_a_body(served: Served, blobs: HttpBlobs) -> None:
    served.buckets.set_fault("chunks", "chunked")
    assert (await blobs.get(served.url("chunks"), max_bytes=SIZE, patience=PATIENCE)).keccak == served.digest


@pytest.mark.guarantee("WK4")
async def test_compressed_zeros_are_not_unpacked(served: Served) -> None:
    """64 MiB of zeros in 64 kB: what was not asked for is taken as it stands on the wire."""
    served.buckets.set_fault("bomb", "gzip", size=64 << 20)
    async with open_blobs(settings(s3_read_timeout=PATIENCE)) as blobs:
        blob = await blobs.get(served.url("bomb"), max_bytes=LIMIT, patience=PATIENCE)
    assert len(blob.body) < 100_000
    assert blob.keccak != served.digest


@pytest.mark.guarantee("WK4")
async def test_an_announced_size_is_told_and_not_downloaded(served: Served, blobs: HttpBlobs) -> None:
    with pytest.raises(BlobUnavailable) as info:
        await blobs.get(served.url("exact"), max_bytes=SIZE - 1, patience=PATIENCE)
    assert (info.value.fault, info.value.announced) == (BlobFault.TOO_LARGE, SIZE)
    served.buckets.set_fault("vast", "oversize_announced", size=1 << 30)
    with pytest.raises(BlobUnavailable) as info:
        await blobs.get(served.url("vast"), max_bytes=LIMIT, patience=PATIENCE)
    assert info.value.announced == 1 << 30


async def test_a_redirect_is_followed_but_not_for_ever(served: Served, blobs: HttpBlobs) -> None:
    served.buckets.set_fault("first", "redirect", location=served.url("second"))
    blob = await blobs.get(served.url("first"), max_bytes=SIZE, patience=PATIENCE)
    assert blob.keccak == served.digest
    served.buckets.set_fault("circle", "redirect", location=served.url("circle"))
    assert await fault_of(blobs, served.url("circle")) is BlobFault.HTTP_STATUS
    assert served.gets("circle") == 4
    served.buckets.set_fault("relative", "redirect", location=f"/second/{served.digest.hex()}")
    assert (await blobs.get(served.url("relative"), max_bytes=SIZE, patience=PATIENCE)).keccak == served.digest


def test_every_behaviour_of_the_buckets_is_met_here() -> None:
    text = Path(__file__).read_text()
    assert [kind for kind in BEHAVIOURS if f'"{kind}"' not in text] == []


# ---------------------------------------------------------------------------------------------------------------------
# Peers that cannot be reached, or must not be


async def test_nobody_listens(blobs: HttpBlobs) -> None:
    assert await fault_of(blobs, "http://127.0.0.1:9/bucket/key") is BlobFault.CONNECT


async def test_a_name_that_does_not_exist(blobs: HttpBlobs) -> None:
    assert await fault_of(blobs, "http://bucket.invalid/key") is BlobFault.CONNECT


@pytest.mark.guarantee("WK3")
async def test_a_peer_that_takes_no_connections_meets_the_deadline(blobs: HttpBlobs) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))  # fills the queue: later ones are not even refused
        try:
            assert await fault_of(blobs, f"http://127.0.0.1:{port}/x", patience=8.0) is BlobFault.CONNECT
        finally:
            for one in crowd:
                one.close()


BAD_URLS = [
    "ftp://127.0.0.1/x",
    "http://",
    "http:///key",
    "http://127.0.0.1:0/key",
    "http://127.0.0.1:99999/key",
    "http://user:password@127.0.0.1/key",
    "http://127.0.0.1/a key",
    "http://127.0.0.1/\r\nhost: x",
    "http://[::1/key",
    "http://bücket/key",
    "gopher://127.0.0.1/",
    "/etc/passwd",
    "",
    "http://127.0.0.1/" + "x" * 5000,
]


@pytest.mark.parametrize("url", BAD_URLS, ids=[str(number) for number in range(len(BAD_URLS))])
async def test_urls_that_are_none(blobs: HttpBlobs, url: str) -> None:
    assert await fault_of(blobs, url) is BlobFault.BAD_URL


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
async def test_private_addresses_are_refused_before_anything_is_sent(served: Served, host: str) -> None:
    gets = served.gets("guarded")
    async with open_blobs(settings(allow_private_buckets=False)) as blobs:
        url = f"http://{host}:{served.buckets.port}/guarded/{served.digest.hex()}"
        assert await fault_of(blobs, url) is BlobFault.FORBIDDEN_ADDRESS
        if host in ("127.0.0.1", "localhost"):
            tls = f"https://{host}:{served.buckets.tls_port}/guarded/{served.digest.hex()}"
            assert await fault_of(blobs, tls) is BlobFault.FORBIDDEN_ADDRESS
    assert served.gets("guarded") == gets


async def test_no_redirect_leads_to_a_private_address(served: Served) -> None:
    """From a host that the operator named to one that only the redirect names."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        port = listener.getsockname()[1]
        fallback = served.buckets.url_of("named")
        served.buckets.set_fault("named", "redirect", location=f"http://127.0.0.1:{port}/latest/meta-data")
        async with open_blobs(settings(allow_private_buckets=False, s3_fallback_urls=(fallback,))) as blobs:
            assert await fault_of(blobs, served.url("named")) is BlobFault.FORBIDDEN_ADDRESS
            served.buckets.heal("named")
            blob = await blobs.get(served.url("named"), max_bytes=SIZE, patience=PATIENCE)
            assert blob.keccak == served.digest, "the host itself was named by the operator"


# ---------------------------------------------------------------------------------------------------------------------
# TLS


@pytest.mark.guarantee("WK2")
async def test_an_unknown_authority_is_refused_and_ours_is_believed(served: Served, blobs: HttpBlobs) -> None:
    assert await fault_of(blobs, served.url("tls", tls=True)) is BlobFault.TLS
    async with open_blobs(settings(s3_ca_file=served.ca_file)) as ours:
        assert (await ours.get(served.url("tls", tls=True), max_bytes=SIZE, patience=PATIENCE)).keccak == served.digest


async def test_a_certificate_for_another_name_is_refused(served: Served) -> None:
    async with open_blobs(settings(s3_ca_file=served.ca_file)) as blobs:
        url = f"https://127.0.0.1:{served.buckets.tls_port}/tls/{served.digest.hex()}"
        assert await fault_of(blobs, url) is BlobFault.TLS


async def test_tls_to_a_port_without_it_and_the_other_way(served: Served) -> None:
    async with open_blobs(settings(s3_ca_file=served.ca_file)) as blobs:
        fault = await fault_of(blobs, f"https://localhost:{served.buckets.port}/x/y")
        assert fault in (BlobFault.TLS, BlobFault.CONNECT)  # it waits for the rest of what it takes for a request
        fault = await fault_of(blobs, f"http://localhost:{served.buckets.tls_port}/x/y")
        assert fault in (BlobFault.BROKEN, BlobFault.HTTP_STATUS)


@pytest.mark.guarantee("WK3")
async def test_a_handshake_that_never_ends(blobs: HttpBlobs) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/x"
        fault = await fault_of(blobs, url, patience=6.0)
        assert fault in (BlobFault.CONNECT, BlobFault.STALLED)


async def test_a_redirect_does_not_leave_https(served: Served) -> None:
    async with open_blobs(settings(s3_ca_file=served.ca_file)) as blobs:
        served.buckets.set_fault("down", "redirect", location=served.url("plain"))
        assert await fault_of(blobs, served.url("down", tls=True)) is BlobFault.BAD_URL
        assert served.gets("plain") == 0


async def test_an_authority_file_that_is_none_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    for path in (str(empty), str(tmp_path / "missing.pem")):
        with pytest.raises(BlobsMisconfigured, match="s3_ca_file"):
            async with open_blobs(settings(s3_ca_file=path)):
                pass


# ---------------------------------------------------------------------------------------------------------------------
# Cancellation


@pytest.mark.guarantee("WK3")
@pytest.mark.parametrize("kind", ["silent", "stall", "slow"])
async def test_a_download_that_nobody_wants_any_more_is_cut(served: Served, kind: str) -> None:
    bucket = f"left-{kind}"
    served.buckets.set_fault(bucket, kind, bytes_per_second=1000)

    async def until_stuck(number: int) -> None:
        with trio.fail_after(20.0):
            while served.buckets.stats()["buckets"].get(bucket, {"stuck": 0})["stuck"] != number:  # noqa: ASYNC110
                await trio.sleep(0.02)  # another process can only be asked

    async with open_blobs(settings(s3_read_timeout=60.0, s3_max_concurrent_gets=4)) as blobs:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(partial(blobs.get, served.url(bucket), max_bytes=LIMIT, patience=60.0))
            await until_stuck(4)
            assert blobs.active == 4
            nursery.cancel_scope.cancel()
        assert blobs.active == 0
        await until_stuck(0)


# ---------------------------------------------------------------------------------------------------------------------
# S3 with credentials


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Double]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AKIDEXAMPLE"])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    with S3Double(SECRETS) as double:
        yield double


def _s3_settings(double: S3Double, **changes: Any) -> Settings:
    region = {"s3_endpoint": double.url, "s3_region": "eu-west-1", "allow_private_buckets": False}
    return settings(**(region | {"s3_read_timeout": 10.0} | changes))


async def _get_s3(double: S3Double, url: str, **changes: Any) -> Blob:
    async with open_blobs(_s3_settings(double, **changes)) as blobs:
        return await blobs.get(url, max_bytes=SIZE, patience=60.0)


async def test_s3_objects_are_asked_for_with_a_signature_that_holds(s3: S3Double) -> None:
    s3.objects["ciphertexts", "prefix/ab cd+~"] = (b"body" * 1000, "compressed_on_gpu")
    blob = await _get_s3(s3, "s3://ciphertexts/prefix/ab cd+~")
    assert blob == Blob(b"body" * 1000, keccak256(b"body" * 1000), "compressed_on_gpu")
    assert (s3.answers, s3.refusals) == ([200], [])


async def test_a_session_token_comes_along(s3: S3Double, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.objects["bucket", "key"] = (b"body", None)
    s3.token = "session+token/="
    monkeypatch.setenv("AWS_SESSION_TOKEN", s3.token)
    assert (await _get_s3(s3, "s3://bucket/key")).body == b"body"


async def test_a_bucket_in_another_region_is_found(s3: S3Double) -> None:
    """S3 names the right region; the signature is made again for it, and its `location` is not followed."""
    s3.objects["bucket", "key"] = (b"body", None)
    s3.regions["bucket"] = "ap-southeast-2"
    async with open_blobs(_s3_settings(s3)) as blobs:
        for _ in range(2):
            assert (await blobs.get("s3://bucket/key", max_bytes=SIZE, patience=60.0)).body == b"body"
    assert s3.answers == [301, 200, 200], "once learned, it is remembered"


async def test_wrong_credentials_are_a_fault_of_the_bucket(s3: S3Double, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.objects["bucket", "key"] = (b"body", None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(BlobUnavailable) as info:
        await _get_s3(s3, "s3://bucket/key")
    assert (info.value.fault, str(info.value)) == (BlobFault.HTTP_STATUS, "unexpected HTTP status: 403")
    assert s3.refusals == ["the signature does not match"]


async def test_no_credentials_at_all_are_said_to_be_missing(s3: S3Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BlobUnavailable) as info:
        await _get_s3(s3, "s3://bucket/key")
    assert info.value.fault is BlobFault.BAD_URL
    assert "NoCredentials" in str(info.value)
    assert s3.answers == []


async def test_s3_objects_come_under_the_same_bounds(s3: S3Double) -> None:
    s3.objects["bucket", "large"] = (bytes(SIZE + 1), None)
    for url, fault in (
        ("s3://bucket/large", BlobFault.TOO_LARGE),
        ("s3://bucket/missing", BlobFault.NOT_FOUND),
        ("s3://Bad_Bucket/key", BlobFault.BAD_URL),
        ("s3:///key", BlobFault.BAD_URL),
    ):
        async with open_blobs(_s3_settings(s3)) as blobs:
            assert await fault_of(blobs, url, max_bytes=SIZE, patience=60.0) is fault
