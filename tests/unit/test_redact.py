"""What may be shown of a URL, and how known secrets are taken out of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd import redact
from kmsd.redact import HIDDEN, Redactor, endpoint, url_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://eth.example.org/v3/0123456789abcdef", "https://eth.example.org"),
        ("https://eth.example.org:8545/?apikey=0123", "https://eth.example.org:8545"),
        ("wss://user:pass@node:8546/ws#x", "wss://node:8546"),
        ("HTTP://Node", "http://Node"),
        ("http://[::1]:8545/x", "http://[::1]:8545"),
        ("postgresql://kms:secret@db1:5432,db2:5433/connector", "postgresql://db1:5432,db2:5433"),
        ("postgresql:///connector?host=/run/pg", "postgresql://"),
        ("s3://bucket/prefix", "s3://bucket"),
        ("http://bad host/secret", "http://***"),
        ("http://h:port:secret", "http://***"),
        ("0xdeadbeef", HIDDEN),
        ("", HIDDEN),
        ("://x", HIDDEN),
    ],
)
def test_endpoint_shows_scheme_host_and_port(url: str, shown: str) -> None:
    assert endpoint(url) == shown


@given(st.text(max_size=60))
def test_endpoint_never_raises_and_never_shows_a_path(rest: str) -> None:
    shown = endpoint("https://host:1/" + rest)
    assert shown == "https://host:1"
    endpoint(rest)


def test_url_secrets_are_password_long_path_segments_and_query_values() -> None:
    found = url_secrets("https://u:p%40ss@h/v3/0123456789abcdef/rpc?token=x1&page=2&k=longer-than-eight#f")
    assert set(found) == {"p%40ss", "p@ss", "0123456789abcdef", "x1", "longer-than-eight"}


@pytest.mark.guarantee("PR4")
@pytest.mark.parametrize(
    "text",
    [
        "key 0x{key} was read",
        "key {KEY}",
        "password {password} and %70: {quoted}",
        "GET https://rpc.example.org/v3/{path} failed",
        "postgresql://kms:{password}@h/db",
        "https://token-in-user@h/x?api={query}",
    ],
)
def test_known_secrets_leave_every_text(text: str) -> None:
    key, password, path, query = "ab" * 32, "p@ss w0rd", "0123456789abcdef", "query-key"
    redactor = Redactor([f"0x{key}", password, path])
    shown = redactor(
        text.format(key=key, KEY=key.upper(), password=password, quoted="p%40ss%20w0rd", path=path, query=query)
    )
    for secret in (key, key.upper(), password, "p%40ss", path, "token-in-user", query):
        assert secret not in shown
    assert HIDDEN in shown


def test_text_without_secrets_stays_as_it_is() -> None:
    redactor = Redactor(["Core", "abc"])
    assert redactor("core says abc") == "core says abc"  # case matters for words; three letters are no secret
    assert redactor("postgresql://kmsd@h/db") == "postgresql://kmsd@h/db"
    assert "Core" not in repr(redactor)


def test_longer_secrets_go_first() -> None:
    assert Redactor(["secret", "secret-and-more"])("secret-and-more") == HIDDEN


def test_the_process_has_one_redactor() -> None:
    redact.KNOWN.add("only-for-this-test-0815")
    assert redact.KNOWN("x only-for-this-test-0815") == f"x {HIDDEN}"
