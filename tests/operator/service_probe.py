"""Runs inside the booted Debian (its own Python, nothing of ours): starts the unit, looks, disturbs, stops, reports."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

RESULT = Path("/probe-result.json")
found: dict[str, object] = {}


def systemctl(*arguments: str) -> int:
    return subprocess.run(["systemctl", *arguments], timeout=90).returncode


def shown() -> dict[str, str]:
    names = "ActiveState,SubState,StatusText,NRestarts,MainPID,Result,ExecMainStatus,ExecMainCode"
    text = subprocess.run(["systemctl", "show", "kmsd", "-p", names], capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def asked(path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:9100{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(condition, seconds: float = 40.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


try:
    found["start"] = systemctl("start", "kmsd")
    before = shown()
    found["started"] = before
    pid = int(before["MainPID"])
    found["process"] = Path(f"/proc/{pid}/status").read_text()
    found["mounts"] = Path(f"/proc/{pid}/mountinfo").read_text()
    found["liveness"] = asked("/liveness")
    found["healthz"] = asked("/healthz")
    found["words"] = until(lambda: "database" in shown()["StatusText"]) and shown()["StatusText"]
    found["survives"] = not until(lambda: shown()["NRestarts"] != "0", 8.0)  # longer than the watchdog's patience

    os.kill(pid, signal.SIGSTOP)
    found["watchdog"] = until(lambda: shown()["NRestarts"] == "1" and shown()["ActiveState"] == "active")
    found["restarted"] = shown()

    found["stop"] = systemctl("stop", "kmsd")
    found["stopped"] = shown()

    config = Path("/etc/kmsd/kmsd.toml")
    config.write_text("task_limt = 3\n" + config.read_text())
    systemctl("reset-failed", "kmsd")
    found["refused"] = systemctl("start", "kmsd")
    time.sleep(4.0)  # longer than RestartSec
    found["misconfigured"] = shown()
    found["journal"] = subprocess.run(
        ["journalctl", "-u", "kmsd", "-o", "cat", "--no-pager"], capture_output=True, text=True
    ).stdout
except Exception as error:
    found["error"] = repr(error)
RESULT.write_text(json.dumps(found))
