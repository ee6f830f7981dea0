"""Compiles `contracts/` with the Solidity compiler from npm; what is compiled is kept by the hash of its sources."""

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from kmsd.sandbox import toolchain
from kmsd.sandbox.cache import CHECKOUT, cache_root, locked

COMPILE_DEADLINE = 300.0
"""Seconds that one run of the compiler may take."""

_SETTINGS: dict[str, Any] = {
    "optimizer": {"enabled": True, "runs": 200},
    "evmVersion": "cancun",
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
}

_COMPILE = """
const solc = require(process.argv[1]);
let input = "";
process.stdin.on("data", (part) => { input += part; });
process.stdin.on("end", () => { process.stdout.write(solc.compile(input)); });
"""


class Artifact(NamedTuple):
    """A compiled contract. `bytecode` creates it (constructor arguments are appended), `runtime` is what stays."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    runtime: bytes


def sources_folder() -> Path:
    """Where the Solidity files are: in the checkout, or in the installed package. Raises FileNotFoundError."""
    for folder in (CHECKOUT / "contracts", Path(__file__).parents[1] / "_contracts"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the Solidity sources are neither in a checkout nor in the installed package")


def compiled() -> dict[str, Artifact]:
    """All contracts by name. The first call after a change takes some seconds, every later one milliseconds.

    Raises RuntimeError with the compiler's words when the sources do not compile.
    """
    folder = sources_folder()
    sources = {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.sol"))}
    standard = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": _SETTINGS,
    }
    request = json.dumps(standard, sort_keys=True)
    versions = (Path(__file__).parent / "npm" / "package-lock.json").read_text()
    label = hashlib.sha256((request + versions).encode()).hexdigest()[:16]
    kept = cache_root() / "solc" / f"{label}.json"
    if not kept.exists():
        with locked(kept.with_suffix(".lock")):
            if not kept.exists():
                _keep(kept, _compile(request))
    return {
        name: Artifact(name, one["abi"], bytes.fromhex(one["bytecode"]), bytes.fromhex(one["runtime"]))
        for name, one in json.loads(kept.read_text()).items()
    }


def _compile(request: str) -> dict[str, Any]:
    tools = toolchain.prepare()
    done = subprocess.run(
        [tools.node, "-e", _COMPILE, str(tools.modules / "solc")],
        input=request,
        capture_output=True,
        text=True,
        timeout=COMPILE_DEADLINE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"solc failed: {done.stderr.strip()}")
    output = json.loads(done.stdout)
    errors = [error["formattedMessage"] for error in output.get("errors", []) if error["severity"] == "error"]
    if errors:
        raise RuntimeError("\n".join(errors))
    return {
        name: {
            "abi": contract["abi"],
            "bytecode": contract["evm"]["bytecode"]["object"],
            "runtime": contract["evm"]["deployedBytecode"]["object"],
        }
        for file in output["contracts"].values()
        for name, contract in file.items()
    }


def _keep(path: Path, content: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
        json.dump(content, part)
    Path(part.name).replace(path)
