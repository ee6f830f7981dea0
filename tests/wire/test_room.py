"""The rules of the room: it imports nothing else of kmsd, does no I/O, and every era is data on top of it."""

import ast
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "kmsd" / "wire"
FILES = sorted(ROOM.rglob("*.py"))

# The whole of what the codecs need from elsewhere.
ALLOWED = {"attrs", "builtins", "coincurve", "collections", "Crypto", "enum", "functools", "re", "threading", "typing"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOM)))
def test_imports(path: Path) -> None:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(node.module or "")
    for module in modules:
        if module.startswith("kmsd"):
            assert module.startswith("kmsd.wire")
            # What eras share knows no era.
            assert path.parent != ROOM or not module.startswith("kmsd.wire.v"), f"{path.name} imports an era"
        else:
            assert module.split(".")[0] in ALLOWED


def test_files_stay_readable() -> None:
    assert all(len(path.read_text().splitlines()) <= 400 for path in FILES)
