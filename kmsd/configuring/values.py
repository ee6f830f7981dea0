"""Types of configuration values: what is allowed, how it is read from a file or a variable, how it is shown.

A value type has `allowed` (words for an error and for the documents), `unit` (the same in short, for an example),
`parse` (from what TOML or a variable gives), `show` (TOML text that parses to the same value), `redacted` (the same
without secrets) and `secrets` (what to keep out of every output). Pure; nothing here reads files or knows any key.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs

from kmsd import redact
from kmsd.configuring.units import (
    BadUnit,
    duration_text,
    parse_duration,
    parse_size,
    parse_wei,
    size_text,
)
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.errors import WireError

MAX_UINT64 = 2**64 - 1


class BadValue(ValueError):
    """A value that its type does not allow. The words, if any, say more than `allowed` does; no value in them."""


class Value(Protocol):
    """One type of value."""

    @property
    def allowed(self) -> str:
        """What may stand here, in words that complete "must be …"."""

    @property
    def unit(self) -> str:
        """The same in a few words, for people who look at an example."""

    def parse(self, raw: Any) -> Any:
        """The value in memory; raises BadValue."""

    def show(self, value: Any) -> str:
        """TOML text of a value in memory."""

    def redacted(self, value: Any) -> str:
        """As `show`, without secrets."""

    def secrets(self, value: Any) -> Sequence[str]:
        """Texts of `value` that must never be printed."""


class Open:
    """What most types share: nothing about them is secret."""

    def show(self, value: Any) -> str:
        """TOML text."""
        return json.dumps(value, ensure_ascii=False)

    def redacted(self, value: Any) -> str:
        """The same: nothing is secret."""
        return self.show(value)

    def secrets(self, value: Any) -> Sequence[str]:
        """Nothing."""
        return ()


@attrs.frozen
class Text(Open):
    """Text that matches `pattern` whole."""

    pattern: str = r"[^\x00-\x1f\x7f]+"
    allowed: str = "text without control characters"
    unit: str = "text"

    def parse(self, raw: Any) -> str:
        """The text."""
        if not isinstance(raw, str) or re.fullmatch(self.pattern, raw) is None:
            raise BadValue
        return raw


NAME = Text(r"[A-Za-z0-9][A-Za-z0-9_.:@/-]{0,99}", "up to 100 letters, digits and _ . : @ / - (no blanks)", "name")
DOMAIN = Text(
    r"[\x20-\x7e]{1,100}",
    "1 to 100 printable ASCII characters: anything else looks right and signs wrong",
    "printable ASCII",
)


@attrs.frozen
class FilePath(Open):
    """A path. A pasted key instead of a path is noticed, so that no error about a missing file prints it."""

    allowed: str = "the path of a file"
    unit: str = "path"

    def parse(self, raw: Any) -> str:
        """The path as text."""
        if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
            raise BadValue
        if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{64}", raw.strip()):
            raise BadValue("this looks like a private key, not like a path")
        return raw


@attrs.frozen
class Secret(Text):
    """Text that is never shown."""

    def redacted(self, value: Any) -> str:
        """Only that there is something."""
        return json.dumps(redact.HIDDEN)

    def secrets(self, value: Any) -> Sequence[str]:
        """All of it."""
        return (str(value),)


@attrs.frozen
class Integer(Open):
    """A whole number from `least` to `most`."""

    least: int
    most: int = MAX_UINT64

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a whole number from {self.least}" + (f" to {self.most}" if self.most != MAX_UINT64 else "")

    @property
    def unit(self) -> str:
        """The range."""
        return f"{self.least} to {self.most}" if self.most < 2**63 - 1 else f"{self.least} or more"

    def parse(self, raw: Any) -> int:
        """The number, also from its decimal digits."""
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", raw.strip()):
            raw = int(raw)
        if not isinstance(raw, int) or isinstance(raw, bool) or not self.least <= raw <= self.most:
            raise BadValue
        return raw


@attrs.frozen
class Flag(Open):
    """True or false."""

    allowed: str = "true or false"
    unit: str = "true or false"

    def parse(self, raw: Any) -> bool:
        """The truth value, also from its word."""
        if isinstance(raw, str):
            raw = {"true": True, "false": False, "1": True, "0": False}.get(raw.strip().lower())
        if not isinstance(raw, bool):
            raise BadValue
        return raw


@attrs.frozen
class Duration(Open):
    """Seconds in memory, `1m 30s` in the file. Not shorter than `least` seconds, which is itself more than 0."""

    least: float = 0.001

    @property
    def allowed(self) -> str:
        """The syntax and the least."""
        return f"a duration such as 500ms, 5s, 1m 30s, 24h; at least {duration_text(self.least)}"

    @property
    def unit(self) -> str:
        """The least."""
        return f"duration, at least {duration_text(self.least)}"

    def parse(self, raw: Any) -> float:
        """Seconds."""
        if isinstance(raw, (int, float)) and not isinstance(raw, bool):
            raise BadValue("a unit is missing")
        try:
            seconds = parse_duration(raw) if isinstance(raw, str) else 0.0
        except BadUnit as error:
            raise BadValue(str(error)) from None
        if not self.least <= seconds <= 1e10:
            raise BadValue
        return seconds

    def show(self, value: Any) -> str:
        """In the largest unit that has no remainder."""
        return json.dumps(duration_text(value))


@attrs.frozen
class Size(Open):
    """Bytes: a number, or `64MiB`."""

    least: int

    @property
    def allowed(self) -> str:
        """The syntax and the least."""
        return f"a size such as 64MiB, or a number of bytes; at least {size_text(self.least)}"

    @property
    def unit(self) -> str:
        """The least."""
        return f"size in bytes, at least {size_text(self.least)}"

    def parse(self, raw: Any) -> int:
        """Bytes."""
        try:
            size = parse_size(str(raw)) if isinstance(raw, (int, str)) and not isinstance(raw, bool) else 0
        except BadUnit as error:
            raise BadValue(str(error)) from None
        if not self.least <= size <= 2**50:
            raise BadValue
        return size

    def show(self, value: Any) -> str:
        """In the largest binary unit that has no remainder."""
        return json.dumps(size_text(value))


@attrs.frozen
class Wei(Open):
    """An amount: a number of wei, or `0.5gwei`."""

    allowed: str = "a number of wei, or an amount such as 0.5gwei; at least 1 wei"
    unit: str = "wei or gwei"

    def parse(self, raw: Any) -> int:
        """Wei."""
        try:
            wei = parse_wei(str(raw)) if isinstance(raw, (int, str)) and not isinstance(raw, bool) else 0
        except BadUnit as error:
            raise BadValue(str(error)) from None
        if not 1 <= wei < 2**128:
            raise BadValue
        return wei

    def show(self, value: Any) -> str:
        """Plain wei; as text where TOML's integers end."""
        return str(value) if value < 2**63 else json.dumps(str(value))


@attrs.frozen
class Choice(Open):
    """One of `options`."""

    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The options."""
        return "one of " + ", ".join(self.options)

    @property
    def unit(self) -> str:
        """The options."""
        return " or ".join(self.options)

    def parse(self, raw: Any) -> str:
        """The option, whatever its case."""
        if not isinstance(raw, str) or raw.strip().lower() not in self.options:
            raise BadValue
        return raw.strip().lower()


@attrs.frozen
class Address(Open):
    """A contract's or signer's address: 20 bytes in memory. The zero address is none."""

    allowed: str = "0x and 40 hexadecimal digits, in lower case or with a right EIP-55 checksum"
    unit: str = "address"

    def parse(self, raw: Any) -> bytes:
        """20 bytes."""
        try:
            address = parse_address(raw.strip() if isinstance(raw, str) else "")
        except WireError as error:
            raise BadValue(
                "the EIP-55 checksum is wrong: a digit is not as it was" if "checksum" in str(error) else ""
            ) from None
        if not any(address):
            raise BadValue("the zero address is no contract")
        return address

    def show(self, value: Any) -> str:
        """With its checksum."""
        return json.dumps(to_checksum(value))


@attrs.frozen
class Url(Open):
    """A URL of one of `schemes`. Its path, query and user may be secret: only scheme, host and port are shown.

    With `public_path` the path is shown too (buckets); `many_hosts` are separated by commas (databases).
    """

    schemes: tuple[str, ...]
    public_path: bool = False
    needs_host: bool = True
    many_hosts: bool = False

    @property
    def allowed(self) -> str:
        """The schemes."""
        return "a URL: " + " or ".join(f"{scheme}://…" for scheme in self.schemes)

    @property
    def unit(self) -> str:
        """The schemes."""
        return " or ".join(f"{scheme}://" for scheme in self.schemes)

    def parse(self, raw: Any) -> str:
        """The URL as it was written."""
        if not isinstance(raw, str) or re.search(r"[\s\x00-\x1f\x7f]", raw.strip()):
            raise BadValue
        url = raw.strip()
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in self.schemes:
            raise BadValue
        hosts = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        if hosts or self.needs_host:
            for host in hosts.split(",") if self.many_hosts else [hosts]:
                _check_host(host)
        return url

    def redacted(self, value: Any) -> str:
        """Scheme, host, port, and the path where that is public; a database's user too."""
        shown = redact.endpoint(value)
        if not self.public_path:
            return json.dumps(shown)
        scheme, _, hosts = shown.partition("://")
        netloc, slash, path = re.split("[?#]", value.partition("://")[2], maxsplit=1)[0].partition("/")
        user = netloc.rpartition("@")[0].partition(":")[0] if self.many_hosts else ""
        return json.dumps(f"{scheme}://{user}{'@' if user else ''}{hosts}{slash}{path}")

    def secrets(self, value: Any) -> Sequence[str]:
        """Password, and what looks like a key in path and query."""
        found = redact.url_secrets(value)
        path = re.split("[?#]", value, maxsplit=1)[0].partition("://")[2].partition("/")[2]
        return [secret for secret in found if secret not in path.split("/")] if self.public_path else found


def _check_host(host: str) -> None:
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        raise BadValue("its host or port is malformed") from None
    if not name:
        raise BadValue("a host is missing")
    if port == 0:
        raise BadValue("port 0 cannot be called")


@attrs.frozen
class Listen(Open):
    """An address to listen on, `host:port` (IPv6 in brackets)."""

    allowed: str = "host:port, e.g. 127.0.0.1:9100 or [::1]:9100"
    unit: str = "host:port"

    def parse(self, raw: Any) -> str:
        """The text as it was written."""
        match = re.fullmatch(
            r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})", raw.strip() if isinstance(raw, str) else ""
        )
        if match is None or int(match[2]) > 65535:
            raise BadValue
        return match[0]


@attrs.frozen
class ListOf:
    """Several values of one type; in a variable separated by commas, or a JSON array."""

    item: Value
    least: int = 1

    @property
    def unit(self) -> str:
        """The item's."""
        return f"list; each: {self.item.unit}"

    @property
    def allowed(self) -> str:
        """The item's words."""
        return f"a list{' of at least one' if self.least else ''}, each {self.item.allowed}"

    def parse(self, raw: Any) -> tuple[Any, ...]:
        """The values in order; none may come twice."""
        if isinstance(raw, str):
            raw = (
                _json_list(raw)
                if raw.lstrip().startswith("[")
                else [text.strip() for text in raw.split(",") if text.strip()]
            )
        if not isinstance(raw, list) or len(raw) < self.least:
            raise BadValue
        values = tuple(self.item.parse(item) for item in raw)
        if len(set(values)) != len(values):
            raise BadValue("one is listed twice")
        return values

    def show(self, value: Any) -> str:
        """A TOML array."""
        return "[" + ", ".join(map(self.item.show, value)) + "]"

    def redacted(self, value: Any) -> str:
        """A TOML array without secrets."""
        return "[" + ", ".join(map(self.item.redacted, value)) + "]"

    def secrets(self, value: Any) -> Sequence[str]:
        """Those of the items."""
        return [secret for item in value for secret in self.item.secrets(item)]


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BadValue("it begins like a JSON array and is none") from None


@attrs.frozen
class Table:
    """A TOML table that becomes one object of the attrs class `cls`; variables name its keys after `__`."""

    cls: type
    allowed: str = "a table"


@attrs.frozen
class Tables:
    """An array of TOML tables, each an object of `cls`; a variable holds it as a JSON array."""

    cls: type
    allowed: str = "an array of tables (in a variable: a JSON array of objects)"
