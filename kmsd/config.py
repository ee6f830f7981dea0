"""Configuration: one attrs tree, made from defaults < TOML file < environment (`kmsd.configuring.load`).

Keys and variables are the reference connector's (reference-connector.md 1.11 and 6.1) plus those of decisions.md 30.
Durations are seconds as `float` in memory, `5s`-style text in the file; sizes are bytes; amounts are wei.

Each key says here what it is: its type, its default, what it does. From that `kmsd.toml.example`,
`docs/configuration.md`, the errors and `kmsd check` are made (`python -m kmsd.documents` writes the two files anew).
To add a key, add a field; nothing else knows the list.
"""

# ruff: noqa: RUF009  (`_key` makes an attrs field, which ruff cannot see)

from collections.abc import Mapping
from typing import Any

import attrs

from kmsd.configuring.values import (
    DOMAIN,
    NAME,
    Address,
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    Listen,
    ListOf,
    Open,
    Secret,
    Size,
    Table,
    Tables,
    Text,
    Url,
    Value,
    Wei,
)

ROLES = ("listener", "worker", "sender", "gc")
"""What a daemon may do; by default everything."""

KEY = "kmsd.key"
"""Under this name a field's metadata holds its `Key`."""


@attrs.frozen
class Key:
    """What is known about one key beside its name and default.

    `needed_by` are the roles that cannot do without it (empty: optional). `reference` is the Rust connector's default
    where ours differs. `example` is TOML text for `kmsd.toml.example` where there is no default.
    """

    value: Value | Table | Tables
    doc: str
    needed_by: tuple[str, ...] = ()
    reference: str | None = None
    example: str | None = None


def _key(
    value: Value | Table | Tables,
    doc: str,
    default: Any = attrs.NOTHING,
    *,
    needed_by: tuple[str, ...] = (),
    reference: str | None = None,
    example: str | None = None,
) -> Any:
    """An attrs field that knows its `Key`; its `repr` shows no secret (PR4)."""
    shown: bool | Any = True
    if isinstance(value, Secret):
        shown = False
    elif not isinstance(value, (Table, Tables, Open)) or isinstance(value, Url):
        redacted = value.redacted

        def shown(stored: Any) -> str:
            return "None" if stored is None else redacted(stored)

    return attrs.field(default=default, repr=shown, metadata={KEY: Key(value, doc, needed_by, reference, example)})


HTTP = Url(("http", "https"))
WEBSOCKET = Url(("ws", "wss"))
BUCKET = Url(("http", "https", "s3"), public_path=True)
DATABASE = Url(("postgresql", "postgres"), public_path=True, needs_host=False, many_hosts=True)


@attrs.frozen
class GatewayNode:
    """One Gateway node: `url` and `backup_urls` count as one node; `ws_url` pushes heads."""

    name: str = _key(NAME, "What logs, metrics and cursors call this node. A renamed node is a new node.")
    url: str = _key(HTTP, "JSON-RPC over HTTP.")
    ws_url: str | None = _key(WEBSOCKET, "JSON-RPC over WebSocket: new heads wake the listener at once.", None)
    backup_urls: tuple[str, ...] = _key(ListOf(HTTP, 0), "Asked while `url` does not answer; the same node.", ())


@attrs.frozen
class HostChain:
    """One host chain whose ACL answers access checks."""

    chain_id: int = _key(Integer(1), "Chain id, compared with the node's own.")
    url: str = _key(HTTP, "JSON-RPC over HTTP.")
    acl_address: bytes = _key(Address(), "The ACL contract.")
    backup_urls: tuple[str, ...] = _key(ListOf(HTTP, 0), "Asked while `url` does not answer.", ())


@attrs.frozen
class Contract:
    """A Gateway contract and the EIP-712 domain of its responses."""

    address: bytes = _key(Address(), "The contract (the proxy where there is one).")
    domain_name: str = _key(DOMAIN, "EIP-712 domain name; by default the contract's own name.", "")
    domain_version: str = _key(DOMAIN, "EIP-712 domain version.", "1")


@attrs.frozen
class CoreTls:
    """PEM files for `https://` Core endpoints; `cert` and `key` for mutual TLS."""

    ca: str | None = _key(FilePath(), "Authorities that sign the Core's certificate; else the system's.", None)
    cert: str | None = _key(FilePath(), "Our certificate, for mutual TLS.", None)
    key: str | None = _key(FilePath(), "The key of `cert`.", None)


@attrs.frozen
class AwsKms:
    """A transaction key held by AWS KMS."""

    key_id: str = _key(Text(), "Key id, ARN or alias; an asymmetric ECC_SECG_P256K1 key for signing.")
    region: str | None = _key(NAME, "AWS region; else the environment's.", None)
    endpoint: str | None = _key(HTTP, "Another endpoint than AWS's own (tests, private links).", None)


ALL = ROLES
CHAIN = ("listener", "worker", "sender")
NOWHERE = b"\0" * 20
"""Stands for an address that is not configured."""


@attrs.frozen
class Settings:
    """Everything an operator can set. See `kmsd.toml.example` for units, defaults and variables."""

    # database
    database_url: str = _key(
        DATABASE,
        "PostgreSQL 14 or later. User and password may come from PGUSER and PGPASSWORD instead.",
        needed_by=ALL,
        example='"postgresql://kmsd@127.0.0.1:5432/connector"',
    )
    database_pool_size: int = _key(Integer(2, 1000), "Connections of the working pool; a few more serve alone.", 16)
    # chains
    gateway_nodes: tuple[GatewayNode, ...] = _key(
        Tables(GatewayNode),
        "Nodes of the Gateway chain. With two or more, an event that any of them reports is heard, and a key ceremony "
        "starts only when a second one shows the same event.",
        (),
        needed_by=CHAIN,
    )
    gateway_chain_id: int = _key(
        Integer(1), "Chain id of the Gateway, compared with each node's own.", 0, needed_by=ALL, example="54321"
    )
    decryption_contract: Contract = _key(
        Table(Contract), "The Decryption contract of the Gateway.", Contract(NOWHERE, "Decryption"), needed_by=ALL
    )
    kms_generation_contract: Contract = _key(
        Table(Contract), "The KMSGeneration contract of the Gateway.", Contract(NOWHERE, "KMSGeneration"), needed_by=ALL
    )
    gateway_config_contract: Contract = _key(
        Table(Contract),
        "The GatewayConfig contract: coprocessors' buckets, registered parties.",
        Contract(NOWHERE, "GatewayConfig"),
        needed_by=("worker", "sender"),
    )
    host_chains: tuple[HostChain, ...] = _key(
        Tables(HostChain),
        "Host chains whose ACL contracts decide who may decrypt what. Names may also be camelCase (`chainId`).",
        (),
        needed_by=("worker",),
    )
    rpc_timeout: float = _key(Duration(0.1), "Deadline of one JSON-RPC request.", 10.0)
    # process
    instance_name: str = _key(
        NAME,
        "Name of this daemon among those on the same database. A restart under the same name takes back its own work "
        "at once; two running daemons need two names.",
        "kmsd",
    )
    service_name: str = _key(NAME, "Name in `/version` and in traces.", "kmsd", reference="kms-connector-…")
    roles: tuple[str, ...] = _key(ListOf(Choice(ROLES)), "What this daemon does.", ROLES)
    task_limit: int = _key(Integer(1, 100_000), "Requests and responses in hand at the same time.", 1000)
    monitoring_endpoint: str = _key(
        Listen(),
        "Where /metrics, /healthz, /liveness and /version are served.",
        "127.0.0.1:9100",
        reference="0.0.0.0:9100",
    )
    healthcheck_timeout: float = _key(Duration(0.01), "Deadline of one background check of a dependency.", 3.0)
    healthcheck_interval: float = _key(Duration(0.1), "Pause between background checks of a dependency.", 5.0)
    shutdown_grace: float = _key(Duration(), "Time that work in hand gets after SIGTERM.", 20.0)
    once_idle: float = _key(Duration(), "`--once` ends after so long without progress.", 30.0)
    log_format: str = _key(
        Choice(("auto", "json", "text")),
        "auto: text on a terminal, else JSON, one object a line.",
        "auto",
        reference="text",
    )
    log_level: str = _key(Choice(("debug", "info", "warning", "error")), "Least level that is logged.", "info")
    # listener
    decryption_polling: float = _key(Duration(0.01), "Pause between looks for decryption requests.", 1.0)
    key_management_polling: float = _key(
        Duration(0.01), "Pause between looks for key-management requests.", 5.0, reference="30s"
    )
    decryption_from_block_number: int | None = _key(
        Integer(0, 2**63 - 1),
        "First block to read decryption requests from while there is no cursor; else the head. To go back later: "
        "`kmsd rewind`.",
        None,
        reference="applied at every start",
    )
    kms_operation_from_block_number: int | None = _key(
        Integer(0, 2**63 - 1),
        "The same for key-management requests.",
        None,
        reference="applied at every start",
    )
    confirmations: int = _key(Integer(0, 10_000), "Blocks that must follow a block before it is read.", 0)
    get_logs_batch_size: int = _key(
        Integer(1, 100_000), "Most blocks of one eth_getLogs; fewer where a node refuses.", 1000, reference="unbounded"
    )
    rescan_overlap: int = _key(Integer(0, 1000), "Blocks before the cursor that are read again each time.", 2)
    # worker
    kms_core_endpoints: tuple[str, ...] = _key(
        ListOf(
            Text(
                r"[^\s\x00-\x1f\x7f]+( *\| *[^\s\x00-\x1f\x7f]+)?",
                "http(s)://host:port, or endpoint|backup",
                "http(s)://host:port",
            )
        ),
        "Shards of the KMS Core; a request goes to shard number id mod n. `endpoint|backup` gives a shard a stand-by.",
        (),
        needed_by=("worker",),
        example='["http://127.0.0.1:50051"]',
    )
    kms_core_tls: CoreTls = _key(Table(CoreTls), "PEM files for `https://` Core endpoints.", CoreTls())
    kms_signer_address: bytes | None = _key(
        Address(),
        "Address that signs this party's answers. When set, every answer of the Core must recover to it; else the "
        "address registered in GatewayConfig is what responses are compared with.",
        None,
    )
    db_fast_event_polling: float = _key(
        Duration(0.01), "Longest pause between claims of decryptions; notifications come first.", 3.0
    )
    db_long_event_polling: float = _key(
        Duration(0.01), "Longest pause between claims of ceremonies.", 10.0, reference="60s"
    )
    events_batch_size: int = _key(Integer(1, 1000), "Decryptions of one claim.", 64, reference="50")
    max_decryption_attempts: int = _key(
        Integer(1, 32_767),
        "Answers about the request itself (access denied, error of the Core, a result that fails its checks) after "
        "which a decryption fails. Outages, busy and not-ready never count.",
        3,
        reference="20",
    )
    decryption_time_budget: float = _key(
        Duration(60.0), "A decryption that still cannot be served after so long fails, outages not counted.", 86400.0
    )
    forbidden_key: str = _key(
        Choice(("wait", "fail")),
        "What becomes of a decryption under a key whose state allows none (pre-activation, destroyed; `kmsd keys`): it "
        "waits for another state within its time budget, or fails at once.",
        "wait",
    )
    core_send_timeout: float = _key(Duration(1.0), "Deadline of a send to the Core; KeyGen may take 60 s.", 75.0)
    core_poll_timeout: float = _key(Duration(1.0), "Deadline of a poll; the Core itself holds one for 60 s.", 75.0)
    core_ceremony_timeout: float = _key(Duration(1.0), "Deadline of Init and InitiateResharing.", 430.0)
    core_window: int = _key(Integer(1, 100_000), "Most requests in flight at one shard; fewer while it is busy.", 1000)
    s3_connect_timeout: float = _key(Duration(0.01), "Deadline of a connection to a bucket.", 3.0)
    s3_read_timeout: float = _key(Duration(0.01), "Longest silence of a bucket during a download.", 5.0)
    s3_get_timeout: float = _key(Duration(0.1), "Deadline of a whole download.", 60.0)
    s3_max_ciphertext_size: int = _key(Size(1024), "Larger objects are refused.", 69_206_016)
    s3_max_concurrent_gets: int = _key(Integer(1, 10_000), "Downloads at the same time.", 64)
    s3_fallback_urls: tuple[str, ...] = _key(
        ListOf(BUCKET, 0), "Buckets asked after the registered ones (http, https, s3).", ()
    )
    s3_ca_file: str | None = _key(FilePath(), "Authorities for buckets besides the system's (PEM).", None)
    s3_endpoint: str | None = _key(HTTP, "Endpoint of `s3://` buckets other than AWS's own.", None)
    s3_region: str | None = _key(NAME, "Region of `s3://` buckets; else the environment's.", None)
    allow_private_buckets: bool = _key(
        Flag(), "Fetch from private and loopback addresses too. Bucket URLs come from the chain: off by default.", False
    )
    ciphertext_memory: int = _key(Size(2**20), "Bytes of ciphertexts in memory at the same time.", 134_217_728)
    copro_registry_refresh: float = _key(Duration(1.0), "How often the coprocessors' buckets are read again.", 60.0)
    host_rpc_max_concurrent_calls: int = _key(Integer(1, 10_000), "Batches in flight at one host chain.", 8)
    host_rpc_call_timeout: float = _key(Duration(0.1), "Deadline of one request to a host chain.", 10.0)
    # sender
    private_key: str | None = _key(
        Secret(r"\s*(0[xX])?[0-9a-fA-F]{64}\s*", "64 hexadecimal digits, with or without 0x", "64 hexadecimal digits"),
        "The transaction key itself. Prefer one of the next three.",
        None,
    )
    private_key_file: str | None = _key(
        FilePath(), "File with the transaction key, readable by its owner only (also a systemd credential).", None
    )
    keystore_file: str | None = _key(FilePath(), "Encrypted transaction key (Web3 keystore v3).", None)
    keystore_password_file: str | None = _key(FilePath(), "File with the keystore's password.", None)
    aws_kms_config: AwsKms | None = _key(Table(AwsKms), "A transaction key held by AWS KMS.", None)
    database_polling_timeout: float = _key(
        Duration(0.01), "Longest pause between claims of responses; notifications come first.", 5.0
    )
    responses_batch_size: int = _key(Integer(1, 5000), "Responses of one claim.", 256, reference="50")
    tx_retries: int = _key(Integer(1, 255), "Tries of one broadcast before longer pauses.", 4)
    tx_retry_interval: float = _key(Duration(), "Pause between those tries.", 0.01)
    tx_resubmit_after: float = _key(Duration(0.1), "A transaction not mined after so long gets higher fees.", 30.0)
    tx_window: int = _key(Integer(1, 10_000), "Most transactions in flight.", 1024)
    trace_reverted_tx: bool = _key(Flag(), "Ask the node for the reason of a reverted transaction.", True)
    gas_multiplier_percent: int = _key(
        Integer(100, 10_000), "Gas limit in percent of the estimate; never less than the kind of response needs.", 115
    )
    max_fee_per_gas: int | None = _key(Wei(), "Most that a unit of gas may cost; unset: what the market asks.", None)
    # gc
    gauge_update_interval: float = _key(Duration(0.1), "Pause between counts of the queues for metrics.", 10.0)
    gc_run_interval: float = _key(Duration(0.1), "Pause between removals of finished decryptions.", 300.0)
    gc_decryption_expiry: float = _key(Duration(1.0), "Completed decryptions are kept for so long.", 86400.0)
    gc_failed_expiry: float = _key(
        Duration(1.0), "Failed decryptions are kept for so long.", 2_592_000.0, reference="as gc_decryption_expiry"
    )
    gc_decryption_under_process_limit: float = _key(
        Duration(1.0),
        "Rows under process that no kmsd owns (left by the Rust connector) are taken back after so long.",
        360.0,
    )


CHAPTERS: Mapping[str, str] = {
    "database_url": "Database",
    "gateway_nodes": "Chains and contracts",
    "instance_name": "Process",
    "decryption_polling": "Listener",
    "kms_core_endpoints": "Worker",
    "private_key": "Sender",
    "gauge_update_interval": "Garbage collection",
}
"""Chapters of the documents by the first key of each."""

INPUTS: Mapping[str, Key] = {
    "gateway_url": Key(
        HTTP, "Short form of `gateway_nodes` for a single node, which is then named `gateway`. Excludes it."
    ),
    "database_password_file": Key(FilePath(), "File with the password for `database_url` (also a systemd credential)."),
}
"""Keys that only help to say others: the loader turns them into fields of Settings."""


def keys_of(cls: type) -> dict[str, Key]:
    """The keys of Settings or of one of its tables, in order."""
    return {field.name: field.metadata[KEY] for field in attrs.fields(cls)}


def default_of(cls: type, name: str) -> Any:
    """The default of a key of Settings or of one of its tables; `attrs.NOTHING` where there is none."""
    return attrs.fields_dict(cls)[name].default


def host_chain_map(settings: Settings) -> Mapping[int, HostChain]:
    """Host chains by chain id."""
    return {chain.chain_id: chain for chain in settings.host_chains}
