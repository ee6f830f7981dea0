"""What can be configured, as texts made from the keys themselves: `kmsd.toml.example`, `docs/configuration.md`, and the
lines of `kmsd check`."""

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import attrs

from kmsd.config import CHAPTERS, INPUTS, NOWHERE, Key, Settings, default_of, keys_of
from kmsd.configuring.foreign_keys import OBSOLETE
from kmsd.configuring.load import Loaded, variable
from kmsd.configuring.values import Address, Table, Tables

WIDTH = 118
"""Columns of a comment in the example."""

EXAMPLES = {
    "address": '"0x1111111111111111111111111111111111111111"',
    "acl_address": '"0x2222222222222222222222222222222222222222"',
    "ca": '"/etc/kmsd/core-ca.pem"',
    "cert": '"/etc/kmsd/core-client.pem"',
    "chain_id": "11155111",
    "database_password_file": '"/etc/kmsd/database-password"',
    "decryption_from_block_number": "12345678",
    "endpoint": '"https://kms.eu-west-3.amazonaws.com"',
    "gateway_url": '"https://rpc.example.org/v1/KEY"',
    "key": '"/etc/kmsd/core-client.key"',
    "key_id": '"alias/kms-connector"',
    "keystore_file": '"/etc/kmsd/keystore.json"',
    "keystore_password_file": '"/etc/kmsd/keystore-password"',
    "kms_operation_from_block_number": "12345678",
    "kms_signer_address": '"0x3333333333333333333333333333333333333333"',
    "max_fee_per_gas": '"5gwei"',
    "name": '"main"',
    "private_key": f'"{"1" * 64}"',
    "private_key_file": '"/etc/kmsd/private-key"',
    "region": '"eu-west-3"',
    "s3_ca_file": '"/etc/kmsd/buckets-ca.pem"',
    "s3_endpoint": '"https://minio.example.org"',
    "s3_region": '"eu-west-3"',
    "url": '"https://rpc.example.org/v1/KEY"',
    "ws_url": '"wss://rpc.example.org/v1/KEY"',
}
"""TOML text for keys that have no default."""


class Row(NamedTuple):
    """One line of `kmsd check`: dotted path, TOML text without secrets, origin."""

    path: str
    shown: str
    origin: str


def explain(loaded: Loaded) -> list[Row]:
    """Every key of a configuration with its value, redacted, and where that came from."""
    return list(_explain(loaded, loaded.settings, "", ""))


def _explain(loaded: Loaded, table: Any, path: str, origin: str) -> Iterator[Row]:
    for name, key in keys_of(type(table)).items():
        here, value = path + name, getattr(table, name)
        its_origin = loaded.origins.get(here) or origin or loaded.origin(here)
        if isinstance(key.value, Table):
            if value is None:
                yield Row(here, "unset", its_origin)
            else:
                yield from _explain(loaded, value, here + ".", "")
        elif isinstance(key.value, Tables):
            if not value:
                yield Row(here, "[]", its_origin)
            for index, item in enumerate(value):
                yield from _explain(loaded, item, f"{here}[{index}].", its_origin)
        elif value is None or (value == NOWHERE and isinstance(key.value, Address)):
            yield Row(here, "unset", its_origin)
        else:
            yield Row(here, key.value.redacted(value), its_origin)


def example_toml() -> str:
    """Text of `kmsd.toml.example`: loads as it is, and so it does with every key uncommented."""
    lines = [
        "# kmsd.toml: configuration of kmsd. Made from kmsd/config.py by `python -m kmsd.documents`.",
        "#",
        "# Keys that are commented out show their default. Every key can also be set by the variable named beside it,",
        "# which wins over this file. `kmsd check --config FILE` prints what results and where each value came from.",
        "# Durations: 500ms, 5s, 1m 30s, 24h. Sizes: 64MiB or a number of bytes.",
    ]
    tables: list[str] = []
    for name, key in {**keys_of(Settings), **INPUTS}.items():
        if name in CHAPTERS:
            lines += ["", "", f"# {'-' * 20} {CHAPTERS[name]} {'-' * 20}"]
        if isinstance(key.value, (Table, Tables)):
            tables += ["", *_example_table(name, key)]
            continue
        if name in INPUTS and name == next(iter(INPUTS)):
            lines += ["", "", f"# {'-' * 20} Short forms {'-' * 20}"]
        default = None if name in INPUTS else default_of(Settings, name)
        lines += ["", *_comment(key, name), _example_line(name, key, default)]
    lines += ["", "", f"# {'-' * 20} Tables {'-' * 20}", "# TOML wants tables after all single keys.", *tables]
    return "\n".join(lines) + "\n"


def _example_table(name: str, key: Key) -> Iterator[str]:
    assert isinstance(key.value, (Table, Tables))
    needed = bool(key.needed_by)
    mark = "" if needed else "# "
    header = f"[{name}]" if isinstance(key.value, Table) else f"[[{name}]]"
    yield from _comment(key, name)
    yield mark + header
    default = default_of(Settings, name)
    for child, child_key in keys_of(key.value.cls).items():
        value = getattr(default, child, attrs.NOTHING) if isinstance(key.value, Table) else attrs.NOTHING
        if value is attrs.NOTHING or value == NOWHERE:
            value = default_of(key.value.cls, child)
        line = _example_line(child, child_key, value)
        if not needed:
            line = "# " + line.removeprefix("# ")
        where = f"{name}.{child}" if isinstance(key.value, Table) else None
        yield from _comment(child_key, where)
        yield line


def _comment(key: Key, path: str | None) -> list[str]:
    """The key's meaning, then its unit and variable."""
    lines = textwrap.wrap(key.doc, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    if isinstance(key.value, Tables):
        return [*lines, f"# Variable, holding JSON: {variable(path or '')}"]
    if isinstance(key.value, Table):
        return lines
    return [*lines, f"# ({key.value.unit}" + (f"; {variable(path)})" if path else ")")]


def _example_line(name: str, key: Key, default: Any) -> str:
    assert not isinstance(key.value, (Table, Tables))
    if default is attrs.NOTHING or (key.example is not None and not default):
        return f"{name} = {key.example or EXAMPLES[name]}"
    if default is None:
        return f"# {name} = {EXAMPLES[name]}"
    return f"# {name} = {key.value.show(default)}"


def configuration_markdown() -> str:
    """Text of `docs/configuration.md`."""
    lines = ["# Configuration"]
    for paragraph in _INTRODUCTION:
        lines += ["", *textwrap.wrap(paragraph, WIDTH, break_on_hyphens=False)]
    for name, key in keys_of(Settings).items():
        if name in CHAPTERS:
            lines += ["", f"## {CHAPTERS[name]}", "", *_TABLE_HEAD]
        lines += _markdown_rows(name, key)
    lines += ["", "## Short forms", "", *_TABLE_HEAD]
    for name, key in INPUTS.items():
        lines += _markdown_rows(name, key)
    lines += [
        "",
        "## Keys of the Rust connector without effect here",
        "",
        "Accepted with one notice.",
        "",
        "| key | why |",
        "|---|---|",
        *(f"| `{name}` | {why} |" for name, why in OBSOLETE.items()),
    ]
    return "\n".join(lines) + "\n"


_INTRODUCTION = (
    "Made from `kmsd/config.py` by `python -m kmsd.documents`; a test says when it is out of step.",
    "Values come from defaults, then the TOML file given by `--config` (or `KMSD_CONFIG`), then variables; the later "
    "wins. A variable is `KMS_CONNECTOR_` and the key in capitals, with `__` before a table's key; lists are separated "
    "by commas, arrays of tables are JSON (keys in snake_case or camelCase). An empty variable counts as unset. "
    "`kmsd check` prints the result and where each value came from.",
    "An unknown key in the file is an error that names its nearest neighbour; an unknown `KMS_CONNECTOR_*` variable is "
    "a warning, because deployments of the Rust connector share one environment among services. Every error is one "
    "line and shows no secret; the exit status is then 78.",
    "`PGUSER` and `PGPASSWORD` complete a `database_url` that names no user or password.",
)

_TABLE_HEAD = ("| key | default | allowed | meaning |", "|---|---|---|---|")


def _markdown_rows(name: str, key: Key) -> Iterator[str]:
    default = None if name in INPUTS else default_of(Settings, name)
    yield _markdown_row(name, key, default)
    if isinstance(key.value, (Table, Tables)):
        separator = "." if isinstance(key.value, Table) else "[]."
        for child, child_key in keys_of(key.value.cls).items():
            value = getattr(default, child, attrs.NOTHING) if isinstance(key.value, Table) else attrs.NOTHING
            if value is attrs.NOTHING or value == NOWHERE:
                value = default_of(key.value.cls, child)
            yield _markdown_row(f"{name}{separator}{child}", child_key, value)


def _markdown_row(path: str, key: Key, default: Any) -> str:
    if isinstance(key.value, (Table, Tables)) or default is None or default == ():
        shown = ""
    elif default is attrs.NOTHING or default == NOWHERE or (not default and key.needed_by):
        shown = "required"
    else:
        shown = f"`{key.value.show(default)}`"
    if key.needed_by and not shown:
        shown = "required"
    if key.reference:
        shown += f" (Rust: {key.reference})"
    meaning = key.doc
    if key.needed_by and len(key.needed_by) < 4:
        meaning += f" Needed by: {', '.join(key.needed_by)}."
    cells = (f"`{path}`", shown, key.value.allowed, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
