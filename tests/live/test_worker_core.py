"""The worker with a real Core double over gRPC, and with real buckets: what it makes of what they do (WK2, WK5, WK6).

Chains and the queue are those of `worker_world`, in memory; the clock is the real one.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
from worker_world import KEY_ID, SIGNER_KEY, Row, World

from kmsd.blobs.download import HttpBlobs
from kmsd.config import CoreTls
from kmsd.core.client import open_core
from kmsd.core.endpoints import parse_shards
from kmsd.core.link import Patience
from kmsd.core.status import NOT_USABLE
from kmsd.observe.probes import Probes
from kmsd.operations.core_desk import SIGNERS_DIFFER
from kmsd.operations.kinds import Kind
from kmsd.ports import CoreMethod, StatusCode
from kmsd.sandbox.bucket_faults import BEHAVIOURS
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.core_double_faults import SPOILERS
from kmsd.sandbox.core_double_process import RunningDouble, running_double
from kmsd.sandbox.handles import clear_value
from kmsd.wire import signatures
from kmsd.wire.addresses import to_checksum

OPTIONS = ("--key", f"{KEY_ID:064x}", "--latency-ms", "20", "--ceremony-ms", "50", "--signing-key", SIGNER_KEY.hex())
SIGNER = signatures.address_of(SIGNER_KEY)
SEND, POLL = CoreMethod.PUBLIC_DECRYPT, CoreMethod.GET_PUBLIC_DECRYPTION_RESULT
FATAL = {StatusCode.INVALID_ARGUMENT, StatusCode.OUT_OF_RANGE, StatusCode.DATA_LOSS}


@pytest.fixture
async def double() -> AsyncIterator[RunningDouble]:
    async with running_double(*OPTIONS) as running:
        yield running


@asynccontextmanager
async def world_with(
    *endpoints: str, tls: CoreTls | None = None, patience: Patience | None = None, **settings: Any
) -> AsyncIterator[World]:
    """A running worker in front of these Cores."""
    async with open_core(parse_shards(endpoints), tls=tls, health_deadline=1.0, patience=patience) as core:
        world = World(core=core, **settings)
        async with world.running():
            yield world


async def _served(world: World, *rows: Row, seconds: float = 60.0) -> None:
    for row in rows:
        world.wakeups.ring(row.kind, is_response=False)
    await world.until(lambda: not {"pending", "under_process"} & {row.status for row in rows}, seconds)


async def _until_called(double: RunningDouble, method: CoreMethod, count: int = 1) -> None:
    with trio.fail_after(30.0):
        while (await double.stats())["calls"].get(method.value, 0) < count:  # noqa: ASYNC110  # another process
            await trio.sleep(0.02)


# ---------------------------------------------------------------------------------------------------------------------
# The table of answers


async def test_all_seven_kinds(double: RunningDouble) -> None:
    async with world_with(double.endpoint, kms_signer_address=SIGNER) as world:
        rows = [world.prss()]
        await _served(world, *rows)
        rows += [world.prep(9), world.keygen(9), world.crsgen(), world.public(1), world.user(1)]
        await _served(world, *rows)
        rows.append(world.reshare())
        await _served(world, *rows)
    assert {row.kind: row.status for row in rows} == dict.fromkeys(Kind, "completed"), [r.last_error for r in rows]
    assert world.health.alerts == ()


@pytest.mark.guarantee("WK5")
@pytest.mark.parametrize("method", [SEND, POLL], ids=["send", "poll"])
async def test_every_status_that_pauses_nothing(double: RunningDouble, method: CoreMethod) -> None:
    """One request for each status: three are failed with the Core's words, one counts, all others get through."""
    statuses = [one for one in StatusCode if one not in NOT_USABLE and one is not StatusCode.OK]
    for status in statuses:
        await double.fault(method=method.value, status=status.name, perform=status is StatusCode.ALREADY_EXISTS)
    async with world_with(double.endpoint) as world:
        rows = [world.public(number) for number in range(1, len(statuses) + 1)]
        await _served(world, *rows)
    failed = [row.last_error or "" for row in rows if row.status == "failed"]
    assert sorted(words.split("answered the ")[1].split()[2] for words in failed) == sorted(one.name for one in FATAL)
    assert Counter(row.status for row in rows) == {"failed": len(FATAL), "completed": len(rows) - len(FATAL)}
    assert sum(row.error_counter for row in rows) == 1
    answers = (await double.stats())["statuses"][method.value]
    assert {status.name for status in statuses} <= set(answers)


@pytest.mark.guarantee("WK5", "QU5")
async def test_an_unusable_core_is_paused_alerted_and_used_again(
    double: RunningDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.core.failover.PAUSE_FIRST", 0.5)
    await double.fault(method=SEND.value, status="FAILED_PRECONDITION", count=-1)
    async with world_with(double.endpoint) as world:
        rows = [world.public(number) for number in range(1, 6)]
        await world.until(lambda: any("is not usable" in (row.last_error or "") for row in rows))
        assert [alert.words for alert in world.health.alerts] == [
            f"core {double.endpoint} answers PublicDecrypt with FAILED_PRECONDITION fault"
        ]
        crs = world.crsgen()
        await _served(world, crs)  # that operation alone is paused
        assert len(world.health.alerts) == 1, "and still is"
        await double.fault(reset=True)
        await _served(world, *rows)
        assert world.health.alerts == ()
    assert {row.status for row in (*rows, crs)} == {"completed"}
    assert {row.error_counter for row in rows} == {0}


@pytest.mark.guarantee("WK3", "WK5")
async def test_a_lost_reply_of_a_send_is_found_to_be_there(double: RunningDouble) -> None:
    await double.fault(method=SEND.value, hang=True, perform=True)
    await double.fault(method=CoreMethod.CRS_GEN.value, hang=True, perform=True)
    async with world_with(double.endpoint, core_send_timeout=1.0) as world:
        rows = [world.public(1), world.crsgen()]
        await _served(world, *rows)
    assert {row.status for row in rows} == {"completed"}
    statuses = (await double.stats())["statuses"]
    assert statuses[SEND.value] == statuses[CoreMethod.CRS_GEN.value] == {"ALREADY_EXISTS": 1}


@pytest.mark.guarantee("WK5")
async def test_a_core_that_restarted_is_sent_everything_again(double: RunningDouble) -> None:
    await double.settings(latency_ms=60_000, long_poll=2)
    async with world_with(double.endpoint) as world:
        rows = [world.public(number) for number in range(1, 21)]
        await _until_called(double, POLL, 20)
        await double.settings(latency_ms=20)
        await double.fault(forget=True)
        await _served(world, *rows)
    assert {row.status for row in rows} == {"completed"}
    assert (await double.stats())["calls"][SEND.value] == 40


@pytest.mark.guarantee("WK3")
async def test_a_stopped_core_is_noticed_and_nothing_is_lost(double: RunningDouble) -> None:
    """SIGSTOP leaves its connections open: only silence tells (within 10 s: tests/live/test_core_connections.py)."""
    await double.settings(latency_ms=2000)
    patience = Patience(connect=0.5, quiet=0.2, ping=0.5)
    async with world_with(double.endpoint, patience=patience) as world, trio.open_nursery() as nursery:
        nursery.start_soon(_probes(world).run)
        dependency = f"core {double.endpoint}"
        await world.until(lambda: world.health.dependencies[dependency].up is True)
        rows = [world.public(number) for number in range(1, 11)]
        await _until_called(double, POLL, 10)
        double.stop()
        await world.until(lambda: _unavailable(world, double) > 0)
        await world.until(lambda: world.health.dependencies[dependency].up is False)
        await world.until(lambda: any(double.endpoint in (row.last_error or "") for row in rows))
        double.resume()
        await _served(world, *rows)
        nursery.cancel_scope.cancel()
    assert {row.status for row in rows} == {"completed"}
    assert {row.error_counter for row in rows} == {0}


def _unavailable(world: World, double: RunningDouble) -> float:
    return world.metrics.value("kms_connector_core_calls", double.endpoint, POLL.value, "UNAVAILABLE")


def _probes(world: World) -> Probes:
    settings = attrs.evolve(world.settings, healthcheck_interval=1.0, healthcheck_timeout=1.0)
    return Probes(settings, [], {}, world.core, world.metrics, world.health)


async def test_a_core_before_its_init_says_not_serving_and_is_used(double: RunningDouble) -> None:
    """NOT_SERVING means degraded, never stop: PRSS Init must be sent exactly then."""
    async with world_with(double.endpoint) as world, trio.open_nursery() as nursery:
        nursery.start_soon(_probes(world).run)
        known = world.health.dependencies
        await world.until(lambda: f"core {double.endpoint}" in known and known[f"core {double.endpoint}"].up is True)
        assert world.metrics.value("kms_connector_core_serving", double.endpoint) == 0
        row = world.prss()
        await _served(world, row)
        assert row.status == "completed"
        await world.until(lambda: world.metrics.value("kms_connector_core_serving", double.endpoint) == 1)
        nursery.cancel_scope.cancel()


async def test_shards_are_judged_one_by_one_in_their_order(double: RunningDouble) -> None:
    endpoints = ("http://127.0.0.1:9", double.endpoint, "http://127.0.0.1:10")
    async with world_with(*endpoints) as world, trio.open_nursery() as nursery:
        probes = _probes(world)
        assert list(world.health.dependencies) == [f"core {endpoint}" for endpoint in endpoints]
        nursery.start_soon(probes.run)
        await world.until(lambda: all(world.health.dependencies[f"core {one}"].up is not None for one in endpoints))
        assert [world.health.dependencies[f"core {endpoint}"].up for endpoint in endpoints] == [False, True, False]
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------------------------------
# Backups and TLS


@pytest.mark.guarantee("WK5")
async def test_the_backup_serves_while_the_primary_is_dead(
    double: RunningDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.core.client.PROBE_INTERVAL", 0.2)
    async with running_double(*OPTIONS) as backup:
        async with world_with(f"{double.endpoint}|{backup.endpoint}") as world:
            before = world.public(1)
            await _served(world, before)
            await double.settings(latency_ms=60_000)
            under_way = [world.public(number) for number in range(2, 6)]
            await _until_called(double, POLL, 5)
            await double.kill()
            after = world.public(6)
            await _served(world, *under_way, after)
        assert {row.status for row in (before, *under_way, after)} == {"completed"}
        assert {row.core_shard for row in (before, *under_way, after)} == {double.endpoint}, "the shard stays the same"
        assert (await backup.stats())["calls"][SEND.value] == 5


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
async def test_through_tls_with_our_own_authority(tmp_path: Path, mutual: bool) -> None:
    authority = trustme.CA()
    files = {name: tmp_path / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
    authority.cert_pem.write_to_path(str(files["ca.pem"]))
    for name, identity in (("server", "127.0.0.1"), ("client", "kmsd@party.example")):
        issued = authority.issue_cert(identity)
        files[f"{name}.pem"].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(files[f"{name}.key"]))
    options = ["--tls-cert", str(files["server.pem"]), "--tls-key", str(files["server.key"])]
    tls = CoreTls(ca=str(files["ca.pem"]))
    if mutual:
        options += ["--client-ca", str(files["ca.pem"])]
        ours = CoreTls(ca=tls.ca, cert=str(files["client.pem"]), key=str(files["client.key"]))
        tls, stranger = ours, tls
    async with running_double(*OPTIONS, *options) as double:
        async with world_with(double.endpoint, tls=tls) as world:
            rows = [world.public(1), world.user(1), world.crsgen()]
            await _served(world, *rows)
            assert {row.status for row in rows} == {"completed"}
        if mutual:
            async with world_with(double.endpoint, tls=stranger) as world:
                row = world.public(2)
                await world.until(lambda: "UNAVAILABLE" in (row.last_error or ""))
                assert (row.status, row.error_counter) == ("pending", 0)


# ---------------------------------------------------------------------------------------------------------------------
# Results


SPOILT: Mapping[CoreMethod, set[str]] = {
    POLL: {
        *("wrong request id", "extra value", "missing value", "unknown type", "wide plaintext", "no payload"),
        *("foreign extra data", "bad signature", "short signature", "wrong signer", "garbage"),
    },
    CoreMethod.GET_USER_DECRYPTION_RESULT: {
        *("extra value", "missing value", "wrong handle", "unknown type", "corrupt digest", "nonsense party"),
        *("no payload", "foreign extra data", "bad signature", "short signature", "wrong signer"),
    },
}


@pytest.mark.guarantee("WK6")
@pytest.mark.parametrize("method", SPOILT, ids=lambda method: method.value)
async def test_spoilt_results_are_kept_not_stored_and_asked_for_again(
    double: RunningDouble, method: CoreMethod
) -> None:
    """One request for each way of spoiling: the first answer is rejected, the second stored."""
    for spoiler in SPOILT[method]:
        await double.fault(method=method.value, result=spoiler)
    async with world_with(double.endpoint, kms_signer_address=SIGNER, max_decryption_attempts=10) as world:
        if method is POLL:
            rows = [world.public(number, handles=2) for number in range(1, len(SPOILT[method]) + 1)]
        else:
            rows = [world.user(number) for number in range(1, len(SPOILT[method]) + 1)]
        await _served(world, *rows)
    assert {row.status for row in rows} == {"completed"}
    # A reply that is no message is the Core's fault (INTERNAL), not a result: nothing to be kept.
    assert len(world.store.rejected) == len(SPOILT[method] - {"garbage"})
    kept = world.store.rejected
    assert {one.id for one in kept} <= {row.id for row in rows}
    assert all(one.core_shard == double.endpoint and (one.raw or "no payload" in one.reason) for one in kept)
    assert len({one.reason for one in kept}) >= 8, "each is rejected for its own reason"


def test_every_spoiler_is_tried_on_some_result() -> None:
    elsewhere = {"wrong bits", "wrong handle order"}  # of a CRS, of several types: tests/live/test_core_rejections.py
    assert set(SPOILERS) - set().union(*SPOILT.values()) == elsewhere


@pytest.mark.guarantee("WK6")
async def test_the_signer_is_learned_and_reported_and_a_second_one_is_an_alert(
    double: RunningDouble, caplog: pytest.LogCaptureFixture
) -> None:
    other = bytes(31) + b"\x77"
    caplog.set_level("INFO", "kmsd.worker")
    async with (
        running_double(*OPTIONS[:-1], other.hex()) as second,
        world_with(double.endpoint, second.endpoint) as world,
    ):
        await _served(world, world.public(2))
        said = f"core {double.endpoint} signs as {to_checksum(SIGNER)}; set kms_signer_address to insist on it"
        assert said in caplog.text
        assert world.health.alerts == ()
        row = world.public(3)
        await _served(world, row)
        (alert,) = world.health.alerts
    assert alert.key == SIGNERS_DIFFER
    assert to_checksum(SIGNER) in alert.words
    assert to_checksum(signatures.address_of(other)) in alert.words
    assert row.status == "completed"


# ---------------------------------------------------------------------------------------------------------------------
# Buckets


@pytest.mark.guarantee("WK2")
async def test_whatever_one_bucket_does_the_other_is_asked(double: RunningDouble, tmp_path: Path) -> None:
    """A request for each fault of a bucket, all at once: each is answered at the first try, with the right value."""
    faults: list[dict[str, Any]] = [{"kind": kind} for kind in BEHAVIOURS if kind != "chunked"]
    faults += [{"kind": "status", "status": status} for status in (301, 403, 404, 503)]
    faults += [{"kind": "reset", "after_bytes": 50}, {"kind": "truncated", "after_bytes": 50}]
    faults += [{"kind": "redirect", "location": where} for where in ("http://127.0.0.1:9/", "ftp://x/", "/nowhere/x")]
    with Buckets(tmp_path) as buckets:
        names = ("bucket-1", "bucket-2")
        urls = [buckets.url_of(name) for name in names]
        settings: dict[str, Any] = {"s3_read_timeout": 1.0, "s3_get_timeout": 8.0, "allow_private_buckets": True}
        async with open_core(parse_shards((double.endpoint,))) as core:
            world = World(core=core, buckets=urls, blobs=_NoBlobs(), **settings)
            world.worker._toolbox.tools.ciphertexts._blobs = blobs = HttpBlobs(world.settings)
            rows = [world.public(number) for number in range(1, len(faults) + 1)]
            for row, fault in zip(rows, faults, strict=True):
                (one,) = row.event.sns_materials
                buckets.add_ciphertext(one.ct_handle, clear_value(one.ct_handle), 200)
                fault["keys"] = [one.sns_ciphertext_digest.hex()]
                fault.setdefault("bytes_per_second", 10.0)
                fault.setdefault("size", 300_000)
            buckets.set_faults(names[0], faults)
            async with world.running():
                await _served(world, *rows)
            assert blobs.active == 0
    assert {row.status for row in rows} == {"completed"}, [row.last_error for row in rows]
    assert {row.attempts for row in rows} == {1}
    for row in rows:
        value = int.from_bytes((row.fields or {})["decrypted_result"], "big")
        assert value == clear_value(row.event.sns_materials[0].ct_handle)


class _NoBlobs:
    """Takes objects and gives none: the real buckets have them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
