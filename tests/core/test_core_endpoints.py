"""Core endpoints as operators write them."""

from pathlib import Path

import pytest

from kmsd.config import CoreTls
from kmsd.core.endpoints import BadEndpoint, Endpoint, parse_endpoint, parse_shards, tls_context
from kmsd.ports import Shard


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://core:50051", ("core", 50051, False)),
        ("https://core.example:443/", ("core.example", 443, True)),
        ("http://core", ("core", 50100, False)),
        ("http://[::1]:7", ("::1", 7, False)),
    ],
)
def test_endpoints(text: str, expected: tuple[str, int, bool]) -> None:
    assert parse_endpoint(text) == Endpoint(text, *expected)


@pytest.mark.parametrize(
    "text",
    ["core:50051", "grpc://core:1", "http://:50051", "http://core:99999", "http://core:0", "http://core/path", ""],
)
def test_bad_endpoints_name_the_key(text: str) -> None:
    with pytest.raises(BadEndpoint, match="kms_core_endpoints"):
        parse_endpoint(text)


@pytest.mark.guarantee("PR4")
@pytest.mark.parametrize("text", ["http://user:hunter2@core:1", "grpc://user:hunter2@core", "http://u:hunter2@c:port"])
def test_a_password_in_an_endpoint_is_not_printed(text: str) -> None:
    with pytest.raises(BadEndpoint) as caught:
        parse_endpoint(text)
    assert "hunter2" not in str(caught.value)


def test_shards_keep_their_order_and_backups() -> None:
    assert parse_shards(("http://b:1 | http://c:2", "http://a:1")) == (
        Shard(0, "http://b:1", "http://c:2"),
        Shard(1, "http://a:1"),
    )


@pytest.mark.parametrize("entries", [("http://a:1", "http://a:1"), ("http://a:1|http://b:1|http://c:1",)])
def test_ambiguous_shards_are_refused(entries: tuple[str, ...]) -> None:
    with pytest.raises(BadEndpoint):
        parse_shards(entries)


def test_tls_files_are_named_when_unusable(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with pytest.raises(BadEndpoint, match=r"kms_core_tls\.ca"):
        tls_context(CoreTls(ca=str(junk)))
    with pytest.raises(BadEndpoint, match=r"kms_core_tls\.ca"):
        tls_context(CoreTls(ca=str(tmp_path / "missing.pem")))
    with pytest.raises(BadEndpoint, match="go together"):
        tls_context(CoreTls(cert=str(junk)))
    with pytest.raises(BadEndpoint, match=r"kms_core_tls\.cert"):
        tls_context(CoreTls(cert=str(junk), key=str(junk)))
