"""Generates `kmsd/core/pb/` from the .proto files beside this script (`make protos`).

    python protos/generate.py [OUTPUT_FOLDER]

Needs grpcio-tools (protoc) and betterproto2-compiler, both in the extra `dev` and pinned by the lock file: the same
versions give the same bytes, and `tests/core/test_core_generated_code.py` compares them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "kmsd" / "core" / "pb"
PROTOS = ("kms.v1.proto", "kms-service.v1.proto", "grpc.health.v1.proto")
OPTIONS = ("client_generation=async", "server_generation=async")


def generate(output: Path) -> None:
    """Write the generated package to `output`, replacing what is there. Raises CalledProcessError if protoc fails."""
    environment = dict(os.environ, PATH=sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", ""))
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={HERE}"]
        command.append(f"--python_betterproto2_out={scratch}")
        command += [f"--python_betterproto2_opt={option}" for option in OPTIONS]
        subprocess.run([*command, *PROTOS], check=True, env=environment, cwd=HERE)
        shutil.rmtree(output, ignore_errors=True)
        for source in sorted(Path(scratch).rglob("*")):
            target = output / source.relative_to(scratch)
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
