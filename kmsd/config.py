"""Configuration: one attrs tree, made from defaults < TOML file < environment.

Keys and variables are the reference connector's (reference-connector.md 1.11 and 6.1) plus those of decisions.md 30.
Durations are seconds as `float` in memory, `5s`-style text in the file.
"""

from collections.abc import Mapping

import attrs


@attrs.frozen
class GatewayNode:
    """One Gateway node: `url` and `backup_urls` count as one node; `ws_url` pushes heads."""

    name: str
    url: str
    ws_url: str | None = None
    backup_urls: tuple[str, ...] = ()


@attrs.frozen
class HostChain:
    """One host chain whose ACL answers access checks."""

    chain_id: int
    url: str
    acl_address: bytes
    backup_urls: tuple[str, ...] = ()


@attrs.frozen
class Contract:
    """A Gateway contract and the EIP-712 domain of its responses."""

    address: bytes
    domain_name: str
    domain_version: str = "1"


@attrs.frozen
class CoreTls:
    """PEM files for `https://` Core endpoints; `cert` and `key` for mutual TLS."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@attrs.frozen
class AwsKms:
    """A transaction key held by AWS KMS."""

    key_id: str
    region: str | None = None
    endpoint: str | None = None


@attrs.frozen
class Settings:
    """Everything an operator can set. See `kmsd.toml.example` for units, defaults and variables."""

    # database
    database_url: str
    database_pool_size: int = 16
    # chains
    gateway_nodes: tuple[GatewayNode, ...] = ()
    gateway_chain_id: int = 0
    decryption_contract: Contract = attrs.field(default=Contract(b"\0" * 20, "Decryption"))
    kms_generation_contract: Contract = attrs.field(default=Contract(b"\0" * 20, "KMSGeneration"))
    gateway_config_contract: Contract = attrs.field(default=Contract(b"\0" * 20, "GatewayConfig"))
    host_chains: tuple[HostChain, ...] = ()
    rpc_timeout: float = 10.0
    # process
    instance_name: str = "kmsd"
    service_name: str = "kmsd"
    roles: tuple[str, ...] = ("listener", "worker", "sender", "gc")
    task_limit: int = 1000
    monitoring_endpoint: str = "127.0.0.1:9100"
    healthcheck_timeout: float = 3.0
    shutdown_grace: float = 20.0
    once_idle: float = 30.0
    log_format: str = "auto"
    log_level: str = "info"
    # listener
    decryption_polling: float = 1.0
    key_management_polling: float = 5.0
    decryption_from_block_number: int | None = None
    kms_operation_from_block_number: int | None = None
    confirmations: int = 0
    get_logs_batch_size: int = 1000
    rescan_overlap: int = 2
    # worker
    kms_core_endpoints: tuple[str, ...] = ()
    kms_core_tls: CoreTls = attrs.field(factory=CoreTls)
    kms_signer_address: bytes | None = None
    db_fast_event_polling: float = 3.0
    db_long_event_polling: float = 10.0
    events_batch_size: int = 64
    max_decryption_attempts: int = 3
    decryption_time_budget: float = 86400.0
    core_send_timeout: float = 75.0
    core_poll_timeout: float = 75.0
    core_ceremony_timeout: float = 430.0
    core_window: int = 1000
    s3_connect_timeout: float = 3.0
    s3_read_timeout: float = 5.0
    s3_get_timeout: float = 60.0
    s3_max_ciphertext_size: int = 69_206_016
    s3_max_concurrent_gets: int = 64
    s3_fallback_urls: tuple[str, ...] = ()
    s3_ca_file: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    allow_private_buckets: bool = False
    ciphertext_memory: int = 134_217_728
    copro_registry_refresh: float = 60.0
    host_rpc_max_concurrent_calls: int = 8
    host_rpc_call_timeout: float = 10.0
    # sender
    private_key: str | None = attrs.field(default=None, repr=False)
    private_key_file: str | None = None
    keystore_file: str | None = None
    keystore_password_file: str | None = None
    aws_kms_config: AwsKms | None = None
    database_polling_timeout: float = 5.0
    responses_batch_size: int = 256
    tx_retries: int = 4
    tx_retry_interval: float = 0.01
    tx_resubmit_after: float = 30.0
    tx_window: int = 1024
    trace_reverted_tx: bool = True
    gas_multiplier_percent: int = 115
    max_fee_per_gas: int | None = None
    # gc
    gauge_update_interval: float = 10.0
    gc_run_interval: float = 300.0
    gc_decryption_expiry: float = 86400.0
    gc_failed_expiry: float = 2_592_000.0
    gc_decryption_under_process_limit: float = 360.0


def host_chain_map(settings: Settings) -> Mapping[int, HostChain]:
    """Host chains by chain id."""
    return {chain.chain_id: chain for chain in settings.host_chains}
