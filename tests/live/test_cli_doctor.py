"""`kmsd doctor` against real parts: Postgres, two chains with contracts, the Core double, buckets."""

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from chain_pair import Chains

from kmsd.clock import SystemTime
from kmsd.config import Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.observe.monitoring import Monitoring
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.core_double_process import running_double
from kmsd.wire.addresses import to_checksum

Doctor = Callable[..., Awaitable[tuple[int, dict[str, dict[str, Any]], str]]]
KEY = f"{4 << 248 | 1:064x}"


def toml(chains: Chains, database_url: str, core: str, **changes: str) -> str:
    """A configuration for the parts; `changes` replace keys by their TOML text."""
    deployed = chains.deployment
    keys = {
        "database_url": json.dumps(database_url),
        "gateway_nodes": f'[{{ name = "main", url = "{chains.gateway.url}", ws_url = "{chains.gateway.ws_url}" }}]',
        "gateway_chain_id": str(deployed.gateway_chain_id),
        "decryption_contract.address": json.dumps(to_checksum(deployed.decryption)),
        "kms_generation_contract.address": json.dumps(to_checksum(deployed.kms_generation)),
        "gateway_config_contract.address": json.dumps(to_checksum(deployed.gateway_config)),
        "host_chains": f'[{{ chain_id = {deployed.host_chain_id}, url = "{chains.host.url}", '
        f'acl_address = "{to_checksum(deployed.acl)}" }}]',
        "kms_core_endpoints": json.dumps([core]),
        "monitoring_endpoint": '"127.0.0.1:1"',
        "private_key": json.dumps(deployed.parties[0].tx.key.hex()),
        "allow_private_buckets": "true",
    } | {name.replace("__", "."): text for name, text in changes.items()}
    return "".join(f"{name} = {text}\n" for name, text in keys.items())


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Runs the command on a configuration: exit status, findings by subject, everything that it printed."""

    async def run(text: str) -> tuple[int, dict[str, dict[str, Any]], str]:
        path = tmp_path / "kmsd.toml"
        path.write_text(text)
        path.chmod(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KMS_", "PG"))}
        done = await trio.run_process(
            [sys.executable, "-m", "kmsd", "doctor", "--json", "-c", str(path)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        printed = done.stdout.decode() + done.stderr.decode()
        try:
            document = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(printed) from None
        return done.returncode, {one["subject"]: one for one in document["findings"]}, printed

    return run


async def test_all_is_well(
    doctor: Doctor, new_chains: Callable[..., Chains], empty_database_url: str, tmp_path: Path
) -> None:
    with Buckets(tmp_path) as buckets:
        chains = new_chains(bucket_urls=[f"http://127.0.0.1:{buckets.port}/b1"])
        async with running_double("--key", KEY) as double:
            status, found, printed = await doctor(toml(chains, empty_database_url, double.endpoint))
    wrong = {subject: one for subject, one in found.items() if one["verdict"] != "ok"}
    assert set(wrong) <= {f"core {double.endpoint}"}  # not SERVING before PRSS Init: a warning
    assert found[f"core {double.endpoint}"]["verdict"] in ("ok", "warning")
    assert status == 0
    wallet = to_checksum(chains.deployment.parties[0].tx.address)
    for subject in (
        "database",
        "database clock",
        "database schema",
        "gateway node main",
        "gateway node main logs",
        "gateway node main heads",
        f"decryption_contract {to_checksum(chains.deployment.decryption)}",
        f"registration of {wallet}",
        f"wallet {wallet}",
        "coprocessors",
        f"host chain {chains.deployment.host_chain_id}",
        f"core {double.endpoint}",
        f"core {double.endpoint} keys",
        f"bucket http://127.0.0.1:{buckets.port}/b1",
        "transaction key",
    ):
        assert subject in found, subject
    assert found["gateway node main heads"]["words"] == "subscribed to new heads"
    assert chains.deployment.parties[0].tx.key.hex() not in printed


@pytest.mark.guarantee("PR4")
async def test_everything_is_wrong_and_named(doctor: Doctor, chains: Chains, empty_database_url: str) -> None:
    stranger = "9f" * 32
    password = "doctor-test-password"
    text = toml(
        chains,
        f"postgresql://nobody:{password}@127.0.0.1:1/db",
        "http://127.0.0.1:1",
        private_key=json.dumps(stranger),
        decryption_contract__domain_name='"Other"',
        kms_generation_contract__address='"0x00000000000000000000000000000000000000aa"',
        gateway_nodes=f'[{{ name = "main", url = "{chains.gateway.url}" }}, '
        f'{{ name = "dead", url = "http://127.0.0.1:1/secret-api-key" }}, '
        f'{{ name = "other", url = "{chains.host.url}" }}]',
        host_chains=f'[{{ chain_id = {chains.deployment.host_chain_id}, url = "{chains.host.url}", '
        'acl_address = "0x00000000000000000000000000000000000000bb" }, '
        f'{{ chain_id = 777, url = "{chains.host.url}", acl_address = "0x00000000000000000000000000000000000000bb" }}]',
    )
    status, found, printed = await doctor(text)
    assert status == 1
    for subject, words in (
        ("database", "127.0.0.1"),
        ("gateway node dead", "http://127.0.0.1:1"),
        ("gateway node other", "is on chain 12345"),
        (f"decryption_contract {to_checksum(chains.deployment.decryption)}", "its EIP-712 domain is 'Decryption'"),
        ("kms_generation_contract 0x00000000000000000000000000000000000000AA", "no contract lives there"),
        ("host chain 777", "is on chain 12345"),
        ("core http://127.0.0.1:1", "UNAVAILABLE"),
    ):
        assert found[subject]["verdict"] == "error", found[subject]
        assert words in found[subject]["words"], subject
        assert found[subject]["remedy"]
    assert any(subject.startswith("registration") and one["verdict"] == "error" for subject, one in found.items())
    assert any(subject.startswith("wallet") and "no funds" in one["words"] for subject, one in found.items())
    assert any(subject.startswith("ACL") and one["verdict"] == "error" for subject, one in found.items())
    for secret in (stranger, password, "secret-api-key"):
        assert secret not in printed


async def test_what_the_running_daemon_says_of_itself(doctor: Doctor, chains: Chains, database_url: str) -> None:
    health = Health(SystemTime())
    settings = Settings(database_url, monitoring_endpoint="127.0.0.1:0", roles=("sender",))
    made = Monitoring(settings, Metrics(), health, {})
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        assert made.address is not None
        where = "{}:{}".format(*made.address)
        for name in ("database", "gateway node main"):
            health.ok(name)
        health.fault("wallet", "its key is disabled")
        text = toml(chains, database_url, "http://127.0.0.1:1", monitoring_endpoint=json.dumps(where))
        _, found, _ = await doctor(text)
        nursery.cancel_scope.cancel()
    assert found[f"daemon on {where}"]["words"] == "healthy"
    said = found[f"daemon on {where}: wallet"]
    assert (said["verdict"], said["words"].split(" (for")[0]) == ("error", "wallet: its key is disabled")
    assert said["remedy"]
    _, found, _ = await doctor(text)
    assert found[f"daemon on {where}"]["words"] == "none runs there now"


async def test_the_databases_schema_and_network_are_looked_at(
    doctor: Doctor, chains: Chains, database_url: str, sql: Callable[[str], str]
) -> None:
    """Migrations that are missing, one of a newer kmsd, and a database of another network; nothing is changed."""
    text = toml(chains, database_url, "http://127.0.0.1:1")
    _, found, _ = await doctor(text)
    assert found["database schema"]["words"].startswith("up to date: ")
    deployed = chains.deployment
    sql(
        "INSERT INTO kmsd_meta (gateway_chain_id, decryption_contract, kms_generation_contract) VALUES "
        f"({deployed.gateway_chain_id}, '\\x{deployed.decryption.hex()}', '\\x{deployed.kms_generation.hex()}')"
    )
    sql("DELETE FROM kmsd_migrations WHERE version = (SELECT max(version) FROM kmsd_migrations)")
    _, found, _ = await doctor(text)
    assert found["database network"]["verdict"] == "ok"
    assert found["database schema"]["verdict"] == "warning"
    assert "run kmsd migrate" in found["database schema"]["remedy"]
    sql("UPDATE kmsd_meta SET gateway_chain_id = 1")
    sql(
        "INSERT INTO kmsd_migrations (version, name, checksum, adopted, seconds) "
        "VALUES (9999, 'of_the_future', 'x', false, 0)"
    )
    status, found, _ = await doctor(text)
    assert status == 1
    assert found["database network"]["verdict"] == "error"
    assert "it belongs to chain 1, " in found["database network"]["words"]
    assert found["database schema"]["verdict"] == "error"
    assert "used by a newer kmsd" in found["database schema"]["words"]
