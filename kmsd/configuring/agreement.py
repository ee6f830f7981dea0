"""Settings that are each allowed and contradict each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kmsd.config import Settings
from kmsd.configuring.units import duration_text, size_text

WALLET_KEYS = ("private_key", "private_key_file", "keystore_file", "aws_kms_config")
"""Where the transaction key may come from: exactly one of them, or a systemd credential named `private_key`."""


def contradictions(settings: Settings, environment: Mapping[str, str], *, wants_wallet: bool) -> list[str]:
    """One line for each contradiction. Without `wants_wallet` a sender without a transaction key is none."""
    problems = [*_nodes(settings), *_core(settings), *_wallet(settings), *_limits(settings)]
    if wants_wallet and "sender" in settings.roles and not _has_wallet(settings, environment):
        problems.append(
            f"no transaction key: the sender needs one of {', '.join(WALLET_KEYS)}, or a systemd credential named "
            "private_key"
        )
    return problems


def _nodes(settings: Settings) -> list[str]:
    problems = [
        *_twice("gateway_nodes", "the name", [node.name for node in settings.gateway_nodes]),
        *_twice("host_chains", "the chain id", [str(chain.chain_id) for chain in settings.host_chains]),
    ]
    owner: dict[str, str] = {}
    for node in settings.gateway_nodes:
        for url in dict.fromkeys((node.url, *node.backup_urls)):
            other = owner.setdefault(url, node.name)
            if other != node.name:
                problems.append(
                    f"gateway_nodes: {other} and {node.name} share a URL; a node cannot confirm what itself says, so "
                    "give each node its own endpoints"
                )
    return problems


def _core(settings: Settings) -> list[str]:
    from kmsd.core.endpoints import BadEndpoint, parse_endpoint, parse_shards  # imports kmsd.config itself

    problems = []
    try:
        shards = parse_shards(settings.kms_core_endpoints)
    except BadEndpoint as error:
        return [str(error)]
    tls = settings.kms_core_tls
    if (tls.cert is None) != (tls.key is None):
        problems.append("kms_core_tls: cert and key go together; set both or none")
    texts = [text for shard in shards for text in (shard.endpoint, shard.backup) if text is not None]
    if any((tls.ca, tls.cert, tls.key)) and texts and not any(parse_endpoint(text).tls for text in texts):
        problems.append("kms_core_tls is set but no endpoint of kms_core_endpoints begins with https://")
    return problems


def _wallet(settings: Settings) -> list[str]:
    given = [name for name in WALLET_KEYS if getattr(settings, name)]
    if given == ["private_key", "aws_kms_config"]:
        given = ["private_key"]  # as in the reference, where the private key wins
    problems = []
    if len(given) > 1:
        problems.append(f"{' and '.join(given)} are set: keep exactly one source of the transaction key")
    if bool(settings.keystore_file) != bool(settings.keystore_password_file):
        problems.append("keystore_file and keystore_password_file go together; set both or none")
    return problems


def _has_wallet(settings: Settings, environment: Mapping[str, str]) -> bool:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    credential = directory is not None and Path(directory, "private_key").is_file()
    return credential or any(getattr(settings, name) for name in WALLET_KEYS)


def _limits(settings: Settings) -> list[str]:
    problems = []
    if settings.s3_max_ciphertext_size > settings.ciphertext_memory:
        problems.append(
            f"s3_max_ciphertext_size ({size_text(settings.s3_max_ciphertext_size)}) is more than ciphertext_memory "
            f"({size_text(settings.ciphertext_memory)}): such a ciphertext could never be fetched"
        )
    for name in ("s3_connect_timeout", "s3_read_timeout"):
        if getattr(settings, name) > settings.s3_get_timeout:
            problems.append(
                f"{name} ({duration_text(getattr(settings, name))}) is longer than s3_get_timeout "
                f"({duration_text(settings.s3_get_timeout)}), which includes it"
            )
    return problems


def _twice(key: str, what: str, names: Sequence[str]) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    return [f"{key}: {what} {name} is used twice; each needs its own" for name in repeated]
