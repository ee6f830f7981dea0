"""Everything around the daemon on one machine, as one object that starts and stops: Postgres, two chains with deployed
contracts, buckets, a Core double, the other parties, and kmsd itself as a process with a generated configuration.

For the sandbox, tests and measurements. Blocking; start it from the main thread, so that its processes end with it.
"""

import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.contracts import GATEWAY_CHAIN_ID, HOST_CHAIN_ID, Deployment, committee, coprocessors, deploy
from kmsd.sandbox.observer import Observer
from kmsd.sandbox.ports import free_port
from kmsd.sandbox.postgres import Postgres
from kmsd.sandbox.process import ChildProcess, python_process
from kmsd.sandbox.requester import Requester
from kmsd.sandbox.rpc import RpcClient
from kmsd.wire.addresses import to_checksum

BLOCK_TIME = 0.25
"""Seconds between blocks."""

DATABASE = "connector"
BUCKETS = ("bucket-1", "bucket-2")
PARTY = 1
"""The party of the committee that kmsd is."""

REAL_CHAIN_IDS = frozenset({1, 10, 137, 8453, 42161, 43114, 11155111, 17000, 560048, 54321, 10900, 10901, 261131})
"""Chains with something at stake: no sandbox pretends to be one of them."""

STOP_DEADLINE = 30.0


@attrs.frozen
class Plan:
    """What a world is made of. `core_latency_ms` None: the double's own. `settings` are further keys of kmsd.toml.

    The scripted parties answer at once, but `slow_party` answers decryptions only after `slow_ms`: so it is kmsd's
    answer that reaches the threshold as a rule, and not one that comes after everything is settled. None: nobody waits.
    """

    gateway_chain_id: int = GATEWAY_CHAIN_ID
    host_chain_id: int = HOST_CHAIN_ID
    block_time: float | None = BLOCK_TIME
    parties: int = 4
    scripted: tuple[int, ...] = (2, 3, 4)
    slow_party: int | None = 4
    slow_ms: float = 60_000
    core_latency_ms: float | None = None
    ceremony_ms: float | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)


class World:
    """One world. `progress` is called with a line before each part starts.

    Raises ValueError for chain ids of real networks.
    """

    def __init__(self, plan: Plan | None = None, progress: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan or Plan()
        real = REAL_CHAIN_IDS & {self.plan.gateway_chain_id, self.plan.host_chain_id}
        if real:
            raise ValueError(f"chain id {min(real)} is a real network's; a sandbox does not pretend to be one")
        self._say = progress
        self.folder = Path(tempfile.mkdtemp(prefix="kmsd-sandbox-"))
        self.postgres = Postgres()
        self.gateway = Anvil(
            self.plan.gateway_chain_id, self.folder, block_time=self.plan.block_time, name="gateway-chain"
        )
        self.host = Anvil(self.plan.host_chain_id, self.folder, block_time=self.plan.block_time, name="host-chain")
        self.buckets = Buckets(self.folder)
        self.config_file = self.folder / "kmsd.toml"
        self._deployment: Deployment | None = None
        self._core: ChildProcess | None = None
        self._committee: ChildProcess | None = None
        self._daemon: ChildProcess | None = None
        self.core_ready: dict[str, Any] = {}
        self.monitoring_port = 0

    def __enter__(self) -> "World":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def deployment(self) -> Deployment:
        """The contracts. Raises RuntimeError before the start."""
        if self._deployment is None:
            raise RuntimeError("the world was not started")
        return self._deployment

    @property
    def core(self) -> ChildProcess:
        """The Core double."""
        return _started(self._core, "the Core double")

    @property
    def committee(self) -> ChildProcess:
        """The other parties."""
        return _started(self._committee, "the committee")

    @property
    def daemon(self) -> ChildProcess:
        """kmsd, while or after `start_daemon`."""
        return _started(self._daemon, "kmsd")

    @property
    def database_url(self) -> str:
        """kmsd's database."""
        return self.postgres.url(DATABASE)

    def observer(self) -> Observer:
        """Reads both chains for what kmsd's party was asked and answered, over connections of its own."""
        party = self.deployment.parties[PARTY - 1]
        return Observer(RpcClient(self.gateway.port), RpcClient(self.host.port), self.deployment, party)

    def requester(self, *, ciphertext_bytes: int | None = None) -> Requester:
        """Asks for decryptions and ceremonies; ciphertexts of `ciphertext_bytes`, or as large as their types are."""
        return Requester(self.deployment, self.gateway, self.host, self.buckets, ciphertext_bytes=ciphertext_bytes)

    def start(self) -> None:
        """Starts everything but kmsd. Raises RuntimeError with the words of the part that does not start."""
        self._say("Postgres")
        self.postgres.start()
        self.postgres.create_database(DATABASE)
        self._say("two chains")
        self.gateway.start()
        self.host.start()
        self._say("buckets")
        self.buckets.start()
        self._say("contracts")
        urls = [self.buckets.url_of(name) for name in BUCKETS]
        self._deployment = deploy(
            self.gateway, self.host, parties=committee(self.plan.parties), copros=coprocessors(urls)
        )
        self._say("a KMS Core")
        self.start_core()
        self._say("the other parties")
        self.start_committee()
        self.write_config()

    def start_core(self) -> None:
        """Starts the Core double (again); what a Core keeps on disk it keeps."""
        party = self.deployment.parties[PARTY - 1]
        port = str(self.core_ready.get("port", 0))
        options = ["--party-id", str(PARTY), "--degree", str(self.deployment.thresholds.mpc), "--port", port]
        options += ["--signing-key", party.signer.key.hex(), "--state", str(self.folder / "core-state.json")]
        if self.plan.core_latency_ms is not None:
            options += ["--latency-ms", f"{self.plan.core_latency_ms:g}"]
        if self.plan.ceremony_ms is not None:
            options += ["--ceremony-ms", f"{self.plan.ceremony_ms:g}"]
        self._core = python_process("core", "kmsd.sandbox.core_double", options, self.folder)
        self._core.stdout_path.unlink(missing_ok=True)
        self._core.start()
        self.core_ready = self._core.ready_line()

    def start_committee(self) -> None:
        """Starts the other parties (again); answers that they gave before are refused and ignored."""
        file = self.folder / "deployment.json"
        file.touch(mode=0o600)
        file.write_text(self.deployment.to_json())
        options = ["--deployment", str(file), "--port", str(self.gateway.port)]
        options += ["--parties", ",".join(map(str, self.plan.scripted))]
        options += ["--from-block", str(self.gateway.block_number() + 1)]
        if self.plan.slow_party is not None:
            options += ["--slow-party", str(self.plan.slow_party), "--slow-ms", f"{self.plan.slow_ms:g}"]
        self._committee = python_process("committee", "kmsd.sandbox.committee", options, self.folder)
        self._committee.stdout_path.unlink(missing_ok=True)
        self._committee.start()
        self._committee.ready_line()

    def write_config(self) -> None:
        """Writes kmsd.toml anew. The monitoring port is chosen once."""
        d, party = self.deployment, self.deployment.parties[PARTY - 1]
        key_file = self.folder / "tx.key"
        key_file.touch(mode=0o600)
        key_file.write_text(party.tx.key.hex())
        self.monitoring_port = self.monitoring_port or free_port()
        settings: dict[str, Any] = {
            "database_url": self.database_url,
            "gateway_chain_id": d.gateway_chain_id,
            "kms_core_endpoints": [f"http://127.0.0.1:{self.core_ready['port']}"],
            "private_key_file": str(key_file),
            "kms_signer_address": party.signer.text,
            "allow_private_buckets": True,
            "monitoring_endpoint": f"127.0.0.1:{self.monitoring_port}",
            "key_management_polling": "1s",
            "decryption_from_block_number": 0,
            "kms_operation_from_block_number": 0,
            "log_format": "json",
            "decryption_contract": {"address": to_checksum(d.decryption)},
            "kms_generation_contract": {"address": to_checksum(d.kms_generation)},
            "gateway_config_contract": {"address": to_checksum(d.gateway_config)},
            "gateway_nodes": [{"name": "anvil", "url": self.gateway.url, "ws_url": self.gateway.ws_url}],
            "host_chains": [{"chain_id": d.host_chain_id, "url": self.host.url, "acl_address": to_checksum(d.acl)}],
        }
        self.config_file.touch(mode=0o600)
        self.config_file.write_text(toml(settings | dict(self.plan.settings)))

    def start_daemon(self, *options: str) -> ChildProcess:
        """Starts kmsd as a process of its own (again)."""
        arguments = ["--config", str(self.config_file), *options]
        self._daemon = python_process("kmsd", "kmsd", arguments, self.folder)
        self._daemon.start()
        return self._daemon

    def stop_daemon(self) -> int | None:
        """SIGTERM to kmsd; returns its exit status."""
        return None if self._daemon is None else self._daemon.stop(signal.SIGTERM, STOP_DEADLINE)

    def close(self) -> None:
        """Ends everything and deletes its files."""
        for process in (self._daemon, self._committee, self._core):
            if process is not None and process.alive():
                process.stop(timeout=5)
        self.buckets.stop()
        self.gateway.close()
        self.host.close()
        self.postgres.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def toml(settings: Mapping[str, Any]) -> str:
    """A TOML document of texts, numbers, booleans, lists of texts, tables, and lists of tables."""
    plain = [f"{name} = {_toml_value(value)}" for name, value in settings.items() if not _is_table(value)]
    for name, value in settings.items():
        if isinstance(value, Mapping):
            plain += ["", f"[{name}]", *(f"{key} = {_toml_value(one)}" for key, one in value.items())]
        elif _is_table(value):
            for row in value:
                plain += ["", f"[[{name}]]", *(f"{key} = {_toml_value(one)}" for key, one in row.items())]
    return "\n".join(plain) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(one) for one in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _started(process: ChildProcess | None, what: str) -> ChildProcess:
    if process is None:
        raise RuntimeError(f"{what} was not started")
    return process
