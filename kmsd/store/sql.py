"""All SQL of the daemon, read from the files in `sql/`: numbered migrations and named queries.

In a wheel the folder is `kmsd/_sql`, in a checkout `sql/` beside the package (decisions.md 32). A query file holds
queries under lines `-- name: …`; comments above the first line of SQL belong to the query. What differs between the
seven kinds (names of tables and columns) stands in double braces and is filled from the operations' table.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import attrs

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{\{([^}]+)\}\}")
_MIGRATION = re.compile(r"(\d{4})_(\w+)\.sql", re.ASCII)


@attrs.frozen
class Migration:
    """One numbered migration; `checksum` is the SHA-256 of its text in hexadecimal."""

    version: int
    name: str
    text: str
    checksum: str


def folder() -> Traversable:
    """The folder that holds `migrations/` and `queries/`."""
    packaged = files("kmsd") / "_sql"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "sql"


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in their order. Raises RuntimeError when numbers are missing or doubled."""
    found = []
    for file in (folder() / "migrations").iterdir():
        if match := _MIGRATION.fullmatch(file.name):
            text = file.read_text("utf-8")
            found.append(Migration(int(match[1]), match[2], text, hashlib.sha256(text.encode()).hexdigest()))
    found.sort(key=lambda migration: migration.version)
    if not found or [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"migrations in {folder()} are not numbered 1, 2, 3, …: the installation is damaged")
    return tuple(found)


@cache
def _queries() -> Mapping[str, str]:
    """Templates by name, over all files: names are unique."""
    found: dict[str, str] = {}
    for file in sorted((folder() / "queries").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        _, *parts = _NAME.split(file.read_text("utf-8"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise RuntimeError(f"the query {name} is defined twice")
            found[name] = text.strip()
    return found


def names() -> tuple[str, ...]:
    """The names of all queries."""
    return tuple(_queries())


def query(name: str, **values: str) -> str:
    """The query of this name with its placeholders filled. Raises KeyError for unknown names and missing values."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], _queries()[name])
