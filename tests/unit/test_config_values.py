"""Types of configuration values: what they take, refuse, and show."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.configuring.units import BadUnit, duration_text, parse_duration, parse_size, parse_wei, size_text
from kmsd.configuring.values import (
    DOMAIN,
    NAME,
    Address,
    BadValue,
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    Listen,
    ListOf,
    Secret,
    Size,
    Text,
    Url,
    Value,
    Wei,
)

HTTP = Url(("http", "https"))
DATABASE = Url(("postgresql",), public_path=True, needs_host=False, many_hosts=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("500ms", 0.5),
        ("1m 30s", 90.0),
        ("1h30m", 5400.0),
        ("2days 3 hours", 183600.0),
        ("1M", 2630016.0),
        ("10us", 0.00001),
        ("1.5s", 1.5),
        (" 24h ", 86400.0),
    ],
)
def test_durations_as_humantime_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 parsecs", "-5s", "5s5", "1e3s", "٥s", "5S"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(BadUnit):
        parse_duration(text)


@given(st.integers(1, 10**9))
def test_durations_read_as_they_are_written(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 2**50))
def test_sizes_read_as_they_are_written(size: int) -> None:
    assert parse_size(size_text(size)) == size


def test_sizes_and_amounts() -> None:
    assert parse_size("66MiB") == 69_206_016
    assert parse_size("1 kB") == 1000
    assert parse_wei("0.5gwei") == 500_000_000
    assert parse_wei("123456789012345678901234") == 123456789012345678901234
    for bad in ("1.5", "x", "1 XB", "-1"):
        with pytest.raises(BadUnit):
            parse_size(bad)
    with pytest.raises(BadUnit):
        parse_wei("0.5")


ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.mark.parametrize(
    ("value_type", "raw", "value"),
    [
        (Integer(1), 5, 5),
        (Integer(1), "5", 5),
        (Flag(), "TRUE", True),
        (Flag(), False, False),
        (Duration(), "1s", 1.0),
        (Size(1), 7, 7),
        (Size(1), "1KiB", 1024),
        (Wei(), "1gwei", 10**9),
        (Choice(("a", "b")), "A", "a"),
        (Address(), ADDRESS, bytes.fromhex(ADDRESS[2:])),
        (Address(), ADDRESS.lower(), bytes.fromhex(ADDRESS[2:])),
        (HTTP, " https://h:1/x?y ", "https://h:1/x?y"),
        (DATABASE, "postgresql:///db?host=/run", "postgresql:///db?host=/run"),
        (DATABASE, "postgresql://a:1,[::1]:2/db", "postgresql://a:1,[::1]:2/db"),
        (Listen(), "[::1]:0", "[::1]:0"),
        (ListOf(Integer(1)), "1, 2,", (1, 2)),
        (ListOf(Integer(1)), "[1,2]", (1, 2)),
        (ListOf(HTTP, 0), [], ()),
        (DOMAIN, "KMS Generation", "KMS Generation"),
    ],
)
def test_allowed_values_and_their_toml_text(value_type: Value, raw: Any, value: Any) -> None:
    import tomllib

    parsed = value_type.parse(raw)
    assert parsed == value
    assert value_type.parse(tomllib.loads(f"x = {value_type.show(parsed)}")["x"]) == parsed


@pytest.mark.guarantee("PR5")
@pytest.mark.parametrize(
    ("value_type", "raw"),
    [
        (Integer(1), 0),
        (Integer(1), -1),
        (Integer(1, 10), 11),
        (Integer(1), True),
        (Integer(1), 1.0),
        (Integer(1), "1.0"),
        (Integer(1), None),
        (Flag(), "yes"),
        (Flag(), 1),
        (Duration(), 5),
        (Duration(), "0s"),
        (Duration(), "-1s"),
        (Duration(0.1), "10ms"),
        (Duration(), "9999999999999y"),
        (Duration(), None),
        (Size(1024), "1KB"),
        (Size(1), 0),
        (Wei(), 0),
        (Choice(("a",)), "c"),
        (Address(), ADDRESS[2:]),
        (Address(), ADDRESS.replace("aA", "AA")),
        (Address(), "0x" + "0" * 40),
        (Address(), ""),
        (HTTP, "ftp://h"),
        (HTTP, "http://"),
        (HTTP, "http://h:0"),
        (HTTP, "http://h:99999"),
        (HTTP, "http://h h"),
        (HTTP, "h:8545"),
        (HTTP, 5),
        (Listen(), "9100"),
        (Listen(), "h:65536"),
        (Listen(), "::1:80"),
        (ListOf(Integer(1)), ""),
        (ListOf(Integer(1)), []),
        (ListOf(Integer(1)), [1, 1]),
        (ListOf(Integer(1)), "[1"),
        (ListOf(Integer(1)), 5),
        (DOMAIN, "Décryption"),
        (DOMAIN, "Decryption\n"),
        (DOMAIN, "Decryption\u200b"),
        (DOMAIN, ""),
        (NAME, "a b"),
        (NAME, ""),
        (Text(), "a\0b"),
        (FilePath(), "ab" * 32),
        (FilePath(), ""),
        (Secret(r"[0-9a-f]{64}"), "ab"),
    ],
)
def test_refused_values(value_type: Value, raw: Any) -> None:
    with pytest.raises(BadValue):
        value_type.parse(raw)


@pytest.mark.guarantee("PR4")
def test_values_are_shown_without_secrets() -> None:
    assert HTTP.redacted("https://u:p@h:1/v3/key?x=y") == '"https://h:1"'
    assert DATABASE.redacted("postgresql://kms:pw@h1:1,h2/db?sslkey=x") == '"postgresql://kms@h1:1,h2/db"'
    assert Secret(".*").redacted("abc") == '"***"'
    assert ListOf(HTTP).redacted(("http://h/key",)) == '["http://h"]'
