"""The unit under a real systemd: booted in a container of a Debian root, with the daemon as the image has it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chroot_image import Stage, fresh

from kmsd.sandbox.cache import cache_root

ROOT = Path(__file__).parents[2]
KEY = "6" * 64
PASSWORD = "password-of-the-database"
CONFIGURATION = f"""
database_url = "postgresql://kmsd@127.0.0.1:1/connector"
gateway_chain_id = 54321
kms_core_endpoints = ["http://127.0.0.1:1"]
gateway_url = "http://127.0.0.1:1"
decryption_contract = {{address = "0x{"11" * 20}"}}
kms_generation_contract = {{address = "0x{"22" * 20}"}}
gateway_config_contract = {{address = "0x{"33" * 20}"}}
host_chains = [{{chain_id = 777, url = "http://127.0.0.1:1", acl_address = "0x{"44" * 20}"}}]
"""
PROBE = """
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /probe.py
ExecStopPost=/usr/bin/systemctl poweroff --no-block
"""
QUICK = "[Service]\nWatchdogSec=4s\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="booting a container needs root")


@pytest.fixture(scope="module")
def found(image: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the probe saw."""
    folder = tmp_path_factory.mktemp("service")
    machine = fresh(cache_root(), folder / "machine")
    shutil.copytree(image.inside("/opt/kmsd"), machine / "opt/kmsd", symlinks=True)
    secrets = machine / "etc/kmsd"
    secrets.mkdir()
    for name, text in (("kmsd.toml", CONFIGURATION), ("private-key", KEY), ("database-password", PASSWORD)):
        (secrets / name).touch(mode=0o600)
        (secrets / name).write_text(text)
    units = machine / "etc/systemd/system"
    shutil.copy(ROOT / "deploy/kmsd.service", units)
    (units / "kmsd.service.d").mkdir()
    (units / "kmsd.service.d/quick.conf").write_text(QUICK)
    (units / "probe.service").write_text(PROBE)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/probe.service").symlink_to("../probe.service")
    shutil.copy(Path(__file__).parent / "service_probe.py", machine / "probe.py")
    boot = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", f"--directory={machine}"]
    done = subprocess.run([*boot, "--boot"], capture_output=True, text=True, timeout=170, stdin=subprocess.DEVNULL)
    result = machine / "probe-result.json"
    assert result.exists(), done.stdout[-3000:] + done.stderr[-2000:]
    yield json.loads(result.read_text())
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def test_the_probe_saw_everything(found: dict[str, Any]) -> None:
    assert "error" not in found, found


def test_it_is_ready_with_everything_down_and_says_so(found: dict[str, Any]) -> None:
    assert found["start"] == 0
    assert found["started"]["ActiveState"] == "active", "READY=1 came"
    assert found["liveness"][0] == 200
    assert found["healthz"][0] == 503
    assert "database" in found["words"], "systemctl status says what is missing"
    assert found["survives"], "waiting for dependencies is being alive"


def test_it_is_shut_in(found: dict[str, Any]) -> None:
    status = dict(line.split(":", 1) for line in found["process"].splitlines())
    assert status["CapEff"].strip() == "0000000000000000"
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2", "the system call filter is in force"
    assert status["Uid"].split()[0] != "0"
    root = next(line for line in found["mounts"].splitlines() if line.split()[4] == "/")
    assert "ro" in root.split()[5].split(",")


def test_the_watchdog_restarts_a_hung_daemon(found: dict[str, Any]) -> None:
    assert found["watchdog"], found["restarted"]


def test_it_stops_cleanly(found: dict[str, Any]) -> None:
    assert found["stop"] == 0
    assert found["stopped"]["ActiveState"] == "inactive", found["stopped"]
    assert found["stopped"]["Result"] == "success"
    assert found["stopped"]["ExecMainStatus"] in ("0", "75")


def test_a_wrong_configuration_is_not_tried_again(found: dict[str, Any]) -> None:
    assert found["refused"] != 0
    assert found["misconfigured"]["ActiveState"] == "failed"
    assert found["misconfigured"]["ExecMainStatus"] == "78"
    assert found["misconfigured"]["NRestarts"] == "0"
    assert "did you mean" in found["journal"] or "task_limit" in found["journal"]


def test_no_secret_is_in_the_journal(found: dict[str, Any]) -> None:
    assert found["journal"]
    for secret in (KEY, PASSWORD):
        assert secret not in found["journal"]
