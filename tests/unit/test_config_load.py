"""Loading a configuration: sources, strictness, errors, secrets (PR4, PR5)."""

import json
from pathlib import Path

import pytest

from kmsd import redact
from kmsd.config import Settings, keys_of
from kmsd.configuring.document import explain
from kmsd.configuring.foreign_keys import MISNAMED, OBSOLETE
from kmsd.configuring.load import DEFAULT, ConfigError, Loaded, load, secrets_of, variable

KEY = "c0ffee" * 10 + "beef"
PASSWORD = "t0p secret/pw"
API_KEY = "0123456789abcdefkey"
ADDRESS = "0x" + "11" * 20

MINIMAL = f"""
database_url = "postgresql://kmsd:t0p%20secret%2Fpw@db:5432/connector"
gateway_url = "https://rpc.example.org/v1/{API_KEY}"
gateway_chain_id = 54321
kms_core_endpoints = ["http://core:50051"]
host_chains = [{{ url = "https://host.example.org/{API_KEY}", chain_id = 1, acl_address = "{ADDRESS}" }}]
private_key = "0x{KEY}"
decryption_contract.address = "{ADDRESS}"
kms_generation_contract.address = "{ADDRESS}"
gateway_config_contract.address = "{ADDRESS}"
"""


@pytest.fixture
def read(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Load MINIMAL with lines added, under the given variables."""

    def _read(more: str = "", minimal: str = MINIMAL, **variables: str) -> Loaded:
        path = tmp_path / "kmsd.toml"
        path.write_text(more + minimal)
        path.chmod(0o600)
        return load(str(path), variables)

    return _read


def problems(call, *arguments, **variables) -> list[str]:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **variables)
    assert caught.value.exit_status == 78
    for line in caught.value.problems:
        assert "\n" not in line
    return list(caught.value.problems)


def test_a_minimal_file_is_enough(read) -> None:  # type: ignore[no-untyped-def]
    loaded = read()
    settings = loaded.settings
    assert settings.gateway_nodes[0].name == "gateway"
    assert settings.gateway_nodes[0].url.endswith(API_KEY)
    assert settings.decryption_contract.domain_name == "Decryption"
    assert settings.kms_generation_contract.domain_name == "KMSGeneration"
    assert settings.host_chains[0].acl_address == bytes.fromhex("11" * 20)
    assert settings.task_limit == 1000
    assert settings.gc_failed_expiry == 30 * 86400
    assert loaded.notices == []


def test_environment_wins_over_file_over_default(read) -> None:  # type: ignore[no-untyped-def]
    loaded = read(
        'task_limit = 7\nrpc_timeout = "3s"\n',
        KMS_CONNECTOR_TASK_LIMIT="9",
        KMS_CONNECTOR_DECRYPTION_CONTRACT__DOMAIN_NAME="Other",
        KMS_CONNECTOR_KMS_CORE_ENDPOINTS="http://a:1|http://b:2, http://c:3",
        KMS_CONNECTOR_TX_RETRIES="",
    )
    settings = loaded.settings
    assert (settings.task_limit, settings.rpc_timeout, settings.tx_retries) == (9, 3.0, 4)
    assert settings.kms_core_endpoints == ("http://a:1|http://b:2", "http://c:3")
    assert settings.decryption_contract.domain_name == "Other"
    assert settings.decryption_contract.address == bytes.fromhex("11" * 20)
    assert loaded.origin("task_limit") == "KMS_CONNECTOR_TASK_LIMIT"
    assert loaded.origin("rpc_timeout") == "kmsd.toml"
    assert loaded.origin("decryption_contract.address") == "kmsd.toml"
    assert loaded.origin("decryption_contract.domain_name") == "KMS_CONNECTOR_DECRYPTION_CONTRACT__DOMAIN_NAME"
    assert loaded.origin("tx_retries") == DEFAULT


def test_the_shared_environment_file_of_the_reference_is_enough() -> None:
    environment = {
        "KMS_CONNECTOR_DATABASE_URL": "postgresql://db.internal/connector",
        "PGUSER": "kms",
        "PGPASSWORD": PASSWORD,
        "KMS_CONNECTOR_GATEWAY_URL": "http://gateway:8546",
        "KMS_CONNECTOR_GATEWAY_CHAIN_ID": "54321",
        "KMS_CONNECTOR_KMS_CORE_ENDPOINTS": "http://kms-core:50051",
        "KMS_CONNECTOR_DECRYPTION_CONTRACT__ADDRESS": ADDRESS,
        "KMS_CONNECTOR_DECRYPTION_CONTRACT__DOMAIN_NAME": "Decryption",
        "KMS_CONNECTOR_DECRYPTION_CONTRACT__DOMAIN_VERSION": "1",
        "KMS_CONNECTOR_KMS_GENERATION_CONTRACT__ADDRESS": ADDRESS,
        "KMS_CONNECTOR_GATEWAY_CONFIG_CONTRACT__ADDRESS": ADDRESS,
        "KMS_CONNECTOR_HOST_CHAINS": json.dumps(
            [{"url": "http://host:8545", "chainId": 12345, "aclAddress": ADDRESS, "extra": 1}]
        ),
        "KMS_CONNECTOR_PRIVATE_KEY": "0x" + KEY,
        "KMS_CONNECTOR_S3_CONFIG__REGION": "us-east-1",
        "KMS_CONNECTOR_KMS_VERIFIER_ADDRESS": ADDRESS,
        "KMS_CONNECTOR_GRPC_REQUEST_RETRIES": "3",
        "KMS_CONNECTOR_S3_CIPHERTEXT_RETRIEVAL_RETRIES": "3",
        "KMS_CONNECTOR_DB_FAST_EVENT_POLLING": "200ms",
        "RUST_LOG": "info",
    }
    loaded = load(None, environment)
    assert loaded.settings.database_url == "postgresql://kms:t0p%20secret%2Fpw@db.internal/connector"
    assert loaded.origin("database_url") == "KMS_CONNECTOR_DATABASE_URL and PGUSER and PGPASSWORD"
    assert loaded.settings.host_chains[0].chain_id == 12345
    assert loaded.settings.db_fast_event_polling == 0.2
    obsolete = [notice for notice in loaded.notices if notice.startswith("without effect here")]
    assert len(obsolete) == 1
    for name in ("grpc_request_retries", "s3_ciphertext_retrieval_retries", "s3_config", "kms_verifier_address"):
        assert name in obsolete[0]
    assert any("host_chains[0].extra" in notice for notice in loaded.notices)


@pytest.mark.guarantee("PR5")
def test_unknown_toml_keys_name_their_neighbour(read) -> None:  # type: ignore[no-untyped-def]
    found = problems(
        read,
        'decryption_poling = "1s"\nhost_chans = []\nkms_core_tls.authority = "x"\n'
        'kms_generation_polling = "1s"\nzzz = 1\n',
    )
    assert "decryption_poling (kmsd.toml): unknown key; did you mean decryption_polling?" in found
    assert "host_chans (kmsd.toml): unknown key; did you mean host_chains?" in found
    assert "kms_core_tls.authority (kmsd.toml): unknown key; known are ca, cert, key" in found
    assert "kms_generation_polling (kmsd.toml): unknown key; did you mean key_management_polling?" in found
    assert "zzz (kmsd.toml): unknown key" in found


@pytest.mark.guarantee("PR5")
def test_unknown_keys_inside_arrays_of_tables(read) -> None:  # type: ignore[no-untyped-def]
    more = '[[gateway_nodes]]\nname = "a"\nurl = "http://a"\nwsurl = "ws://a"\n'
    found = problems(read, minimal=MINIMAL.replace("gateway_url", "# gateway_url") + more)
    assert found == ["gateway_nodes[0].wsurl (kmsd.toml): unknown key; did you mean ws_url?"]


@pytest.mark.guarantee("PR5")
def test_unknown_variables_are_warnings(read) -> None:  # type: ignore[no-untyped-def]
    loaded = read(
        KMS_CONNECTOR_DECRYPTION_POLING="1s",
        KMS_CONNECTOR_KMS_FROM_BLOCK_NUMBER="1",
        KMS_CONNECTOR_WHATEVER_IT_IS="1",
        OTHER="x",
    )
    assert loaded.notices == [
        "KMS_CONNECTOR_DECRYPTION_POLING (environment): unknown variable, ignored; did you mean "
        "KMS_CONNECTOR_DECRYPTION_POLLING?",
        "KMS_CONNECTOR_KMS_FROM_BLOCK_NUMBER (environment): unknown variable, ignored; did you mean "
        "KMS_CONNECTOR_KMS_OPERATION_FROM_BLOCK_NUMBER?",
        "KMS_CONNECTOR_WHATEVER_IT_IS (environment): unknown variable, ignored",
    ]


@pytest.mark.guarantee("PR5")
def test_zero_and_negative_limits_are_errors(read) -> None:  # type: ignore[no-untyped-def]
    found = problems(
        read,
        'task_limit = 0\nevents_batch_size = -1\nrpc_timeout = "0s"\nciphertext_memory = 0\ntx_window = 0\n'
        "gas_multiplier_percent = 99\ndatabase_pool_size = 0\n",
    )
    for key in (
        "task_limit",
        "events_batch_size",
        "rpc_timeout",
        "ciphertext_memory",
        "tx_window",
        "gas_multiplier_percent",
        "database_pool_size",
    ):
        assert any(line.startswith(f"{key} (kmsd.toml): ") and "must be" in line for line in found), key
    assert len(found) == 7


@pytest.mark.guarantee("PR5")
def test_every_number_of_the_configuration_has_a_least_value(read) -> None:  # type: ignore[no-untyped-def]
    for name, key in keys_of(Settings).items():
        if hasattr(key.value, "least"):
            found = problems(read, **{variable(name): "-1"})
            assert any(line.startswith(name) for line in found), name


def test_all_missing_keys_are_named_with_their_variables() -> None:
    found = problems(load, None, {})
    for name in (
        "database_url",
        "gateway_nodes",
        "gateway_chain_id",
        "decryption_contract.address",
        "kms_generation_contract.address",
        "gateway_config_contract.address",
        "host_chains",
        "kms_core_endpoints",
    ):
        assert any(line.startswith(f"{name} ({variable(name)})") and "is missing" in line for line in found), name


def test_roles_decide_what_is_needed() -> None:
    environment = {"KMS_CONNECTOR_ROLES": "gc", "KMS_CONNECTOR_DATABASE_URL": "postgresql://h/d"}
    found = problems(load, None, environment)
    assert {line.split(" ")[0] for line in found} == {
        "gateway_chain_id",
        "decryption_contract.address",
        "kms_generation_contract.address",
    }
    assert load(None, environment, needed=["database_url"]).settings.database_url == "postgresql://h/d"
    assert load(None, {}, needed=()).settings.monitoring_endpoint == "127.0.0.1:9100"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "exclude each other"),
        ('kms_core_tls.cert = "/x"\n', "cert and key go together"),
        ('kms_core_tls.ca = "/x"\n', "begins with https://"),
        ('keystore_file = "/k"\nkeystore_password_file = "/p"\n', "exactly one source"),
        ('private_key_file = "/k"\n', "exactly one source"),
        ('keystore_password_file = "/k"\n', "go together"),
        ('s3_max_ciphertext_size = "1GiB"\n', "could never be fetched"),
        ('s3_read_timeout = "2m"\n', "longer than s3_get_timeout"),
        ('database_password_file = "/nowhere/x"\n', "cannot read /nowhere/x"),
    ],
)
def test_contradictions_are_refused(read, more: str, words: str) -> None:  # type: ignore[no-untyped-def]
    variables = {} if more else {"KMS_CONNECTOR_GATEWAY_NODES": '[{"name":"a","url":"http://a"}]'}
    found = problems(read, more, **variables)
    assert any(words in line for line in found), found


def test_nodes_must_be_different(read) -> None:  # type: ignore[no-untyped-def]
    minimal = MINIMAL.replace("gateway_url", "# gateway_url")
    nodes = [{"name": "a", "url": f"http://h/{API_KEY}"}, {"name": "a", "url": "http://i"}]
    assert (
        "the name a is used twice" in problems(read, minimal=minimal, KMS_CONNECTOR_GATEWAY_NODES=json.dumps(nodes))[0]
    )
    nodes = [
        {"name": "a", "url": f"http://h/{API_KEY}"},
        {"name": "b", "url": "http://i", "backup_urls": [f"http://h/{API_KEY}"]},
    ]
    found = problems(read, minimal=minimal, KMS_CONNECTOR_GATEWAY_NODES=json.dumps(nodes))
    assert "cannot confirm" in found[0]
    assert API_KEY not in found[0]
    chain = {"url": "http://h", "chain_id": 1, "acl_address": ADDRESS}
    found = problems(read, KMS_CONNECTOR_HOST_CHAINS=json.dumps([chain, chain]))
    assert "the chain id 1 is used twice" in found[0]


def test_the_reference_lets_the_private_key_win_over_aws(read) -> None:  # type: ignore[no-untyped-def]
    loaded = read(KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID="alias/x")
    assert loaded.settings.private_key is not None
    assert loaded.settings.aws_kms_config is not None


def test_a_sender_needs_a_key_or_a_credential(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    minimal = MINIMAL.replace("private_key", "# private_key")
    assert problems(read, minimal=minimal)[0].startswith("no transaction key")
    (tmp_path / "private_key").write_text(KEY)
    assert read(minimal=minimal, CREDENTIALS_DIRECTORY=str(tmp_path)).settings.private_key is None


def test_the_database_password_from_a_file(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    secret = tmp_path / "password"
    secret.write_text("from-a-file\n")
    secret.chmod(0o644)
    minimal = MINIMAL.replace("kmsd:t0p%20secret%2Fpw@", "kmsd@")
    more = f'database_password_file = "{secret}"\n'
    assert "chmod 600" in problems(read, more, minimal)[0]
    secret.chmod(0o600)
    loaded = read(more, minimal, PGPASSWORD="other")
    assert loaded.settings.database_url == "postgresql://kmsd:from-a-file@db:5432/connector"
    assert loaded.origin("database_url") == "kmsd.toml and database_password_file"
    assert "keep one of them" in problems(read, more)[0]


def test_a_file_with_a_key_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "kmsd.toml"
    path.write_text(MINIMAL)
    path.chmod(0o644)
    assert any("chmod 600" in notice for notice in load(str(path), {}).notices)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a = ", "is not TOML"), (b"\xff", "is not UTF-8"), (None, "cannot read the configuration")],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "kmsd.toml"
    if content is not None:
        path.write_bytes(content)
    found = problems(load, str(path), {})
    assert len(found) == 1
    assert words in found[0]


def test_a_broken_toml_line_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "kmsd.toml"
    path.write_text(f'private_key = "{KEY}')
    (line,) = problems(load, str(path), {})
    assert KEY not in line


@pytest.mark.guarantee("PR4")
def test_errors_show_no_secret() -> None:
    environment = {
        "KMS_CONNECTOR_PRIVATE_KEY": "zz" + KEY,
        "KMS_CONNECTOR_PRIVATE_KEY_FILE": KEY,
        "KMS_CONNECTOR_DATABASE_URL": f"mysql://u:{API_KEY}@h/db",
        "KMS_CONNECTOR_GATEWAY_URL": f"ftp://h/{API_KEY}",
        "KMS_CONNECTOR_HOST_CHAINS": f'[{{"url": "http://h/{API_KEY}"',
        "KMS_CONNECTOR_S3_FALLBACK_URLS": f"gopher://u:{API_KEY}@h",
        "KMS_CONNECTOR_KMS_CORE_ENDPOINTS": f"http://u:{API_KEY}@core:1",
        "KMS_CONNECTOR_KMS_SIGNER_ADDRESS": KEY,
    }
    found = "\n".join(problems(load, None, environment))
    assert KEY not in found
    assert API_KEY not in found
    assert "KMS_CONNECTOR_PRIVATE_KEY" in found


@pytest.mark.guarantee("PR4")
def test_settings_print_no_secret(read) -> None:  # type: ignore[no-untyped-def]
    loaded = read(
        KMS_CONNECTOR_HOST_CHAINS=json.dumps(
            [{"url": "http://h", "backupUrls": [f"http://i/{API_KEY}"], "chainId": 1, "aclAddress": ADDRESS}]
        )
    )
    shown = repr(loaded) + str(loaded.settings) + "\n".join(map(str, explain(loaded)))
    for secret in (KEY, API_KEY, "t0p", "secret%2Fpw"):
        assert secret not in shown, secret
    assert set(secrets_of(loaded.settings)) >= {"0x" + KEY, API_KEY, PASSWORD}
    for secret in (KEY, API_KEY, PASSWORD):
        assert secret not in redact.KNOWN(f"x {secret} y")


def test_every_value_is_explained_once(read) -> None:  # type: ignore[no-untyped-def]
    rows = explain(read())
    paths = [row.path for row in rows]
    assert len(set(paths)) == len(paths)
    named = {path.split(".")[0].split("[")[0] for path in paths}
    assert named == set(keys_of(Settings))
    assert ("gateway_nodes[0].url", '"https://rpc.example.org"', "kmsd.toml") in rows
    assert ("task_limit", "1000", DEFAULT) in rows


def test_foreign_keys_are_no_keys() -> None:
    assert not set(OBSOLETE) & set(keys_of(Settings))
    assert not set(MISNAMED) & set(keys_of(Settings))
    for right in MISNAMED.values():
        name, _, child = right.partition(".")
        key = keys_of(Settings)[name]
        assert not child or child in keys_of(key.value.cls)  # type: ignore[union-attr]
