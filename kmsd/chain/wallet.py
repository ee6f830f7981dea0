"""The party's transaction key: where it comes from, and signing with a key that is here.

Exactly one of: a private key (variable, file, systemd credential), a keystore v3 with its password file, AWS KMS.
"""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import coincurve
import trio

from kmsd import redact
from kmsd.config import Settings
from kmsd.ports import Wallet
from kmsd.wire.signatures import address_of

log = logging.getLogger("kmsd.wallet")

TEST_CHAINS = frozenset({10900, 10901, 54321, 123456, 31337, 1337})
"""Gateway chain ids of test networks, where a raw key is nothing to warn about."""

CREDENTIAL = "private_key"
"""Name of the systemd credential (`LoadCredential=private_key:…`) that is used when nothing else is configured."""

CHUNK = 64
"""Signatures made before other tasks get a turn (about 3 ms)."""


class WalletMisconfigured(ValueError):
    """No usable key in the configuration; the words name the setting and the remedy, never the key."""


class LocalWallet:
    """Signs with a private key in memory (ports.Wallet)."""

    is_remote = False

    def __init__(self, private_key: bytes) -> None:
        self._key = coincurve.PrivateKey(private_key)
        self._address = address_of(private_key)

    def __repr__(self) -> str:
        return f"LocalWallet(0x{self._address.hex()})"

    @property
    def address(self) -> bytes:
        """The 20-byte address of the key."""
        return self._address

    async def learn_address(self) -> bytes:
        """The address at once: the key is here."""
        return self._address

    async def sign(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """65-byte r‖s‖v for each digest, low s, deterministic (RFC 6979)."""
        signatures: list[bytes] = []
        for start in range(0, len(digests), CHUNK):
            await trio.lowlevel.checkpoint()
            for digest in digests[start : start + CHUNK]:
                signature: bytes = self._key.sign_recoverable(digest, hasher=None)
                signatures.append(signature[:64] + bytes((27 + signature[64],)))
        return signatures


def open_wallet(settings: Settings, environment: Mapping[str, str] = os.environ) -> Wallet:
    """The wallet that the configuration names; reads files now, asks nobody else.

    Raises WalletMisconfigured when there is none, more than one, or a file that cannot be used. With both `private_key`
    and `aws_kms_config` the private key wins, as in the reference, with a notice.
    """
    sources = [
        name
        for name, value in (
            ("private_key", settings.private_key),
            ("private_key_file", settings.private_key_file),
            ("keystore_file", settings.keystore_file),
            ("aws_kms_config", settings.aws_kms_config),
        )
        if value
    ]
    if sources == ["private_key", "aws_kms_config"]:
        log.warning("private_key and aws_kms_config are both set: private_key is used; remove one of them")
        sources = ["private_key"]
    if len(sources) > 1:
        raise WalletMisconfigured(f"{' and '.join(sources)} are set: keep exactly one source of the transaction key")
    source = sources[0] if sources else None
    if source == "aws_kms_config":
        from kmsd.chain.wallet_aws import AwsWallet  # boto3 takes a third of a second to import

        assert settings.aws_kms_config is not None
        return AwsWallet(settings.aws_kms_config)
    if source == "keystore_file":
        return LocalWallet(_from_keystore(settings, environment))
    if source == "private_key":
        text, where = settings.private_key or "", "private_key"
    elif source == "private_key_file":
        text, where = _read_secret(settings.private_key_file or "", "private_key_file", environment), "private_key_file"
    else:
        text, where = _credential(environment), f"systemd credential {CREDENTIAL}"
    wallet = LocalWallet(parse_private_key(text, where))
    if settings.gateway_chain_id not in TEST_CHAINS:
        log.warning(
            "the transaction key 0x%s is a raw private key (%s) on chain %d; prefer a keystore or AWS KMS outside test "
            "networks",
            wallet.address.hex(),
            where,
            settings.gateway_chain_id,
        )
    return wallet


def parse_private_key(text: str, where: str) -> bytes:
    """32 bytes from 64 hexadecimal digits with or without `0x`; raises WalletMisconfigured naming `where`."""
    digits = text.strip()
    digits = digits[2:] if digits[:2] in ("0x", "0X") else digits
    try:
        key = bytes.fromhex(digits) if len(digits) == 64 else b""
        address_of(key)
        return key
    except ValueError:
        pass
    raise WalletMisconfigured(f"{where}: a private key is 64 hexadecimal digits of a number within the curve's order")


def _credential(environment: Mapping[str, str]) -> str:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, CREDENTIAL) if directory else None
    if path is None or not path.is_file():
        raise WalletMisconfigured(
            "no transaction key: set one of private_key, private_key_file, keystore_file, aws_kms_config, or give the "
            f"unit a systemd credential named {CREDENTIAL}"
        )
    return _read_secret(str(path), f"systemd credential {CREDENTIAL}", environment)


def _read_secret(path: str, setting: str, environment: Mapping[str, str]) -> str:
    """Text of a file that only its owner may read; the redactor knows it from now on (PR4).

    systemd guards its credentials by the directory and shows access control lists as group bits, so the mode of a file
    in there says nothing.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY")
    try:
        mode = os.stat(path).st_mode
        guarded = directory is not None and Path(path).resolve().is_relative_to(Path(directory).resolve())
        if not stat.S_ISREG(mode):
            raise WalletMisconfigured(f"{setting}: {path} is not a file")
        if not guarded and mode & 0o077:
            raise WalletMisconfigured(
                f"{setting}: {path} has mode {stat.S_IMODE(mode):04o}, so others than its owner may read it; "
                f"chmod 600 {path}"
            )
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise WalletMisconfigured(f"{setting}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WalletMisconfigured(f"{setting}: {path} is not text") from error
    redact.KNOWN.add(text)
    return text


def _from_keystore(settings: Settings, environment: Mapping[str, str]) -> bytes:
    """The key inside a keystore v3 file (scrypt or pbkdf2: takes a second or more)."""
    import json

    from eth_account import Account  # takes up to a second to import

    path = settings.keystore_file or ""
    if not settings.keystore_password_file:
        raise WalletMisconfigured("keystore_file needs keystore_password_file: the file that holds its password")
    password = _read_secret(settings.keystore_password_file, "keystore_password_file", environment).rstrip("\r\n")
    try:
        keystore = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WalletMisconfigured(f"keystore_file: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise WalletMisconfigured(f"keystore_file: {path} is not a keystore (JSON)") from error
    try:
        key = bytes(Account.decrypt(keystore, password))
        redact.KNOWN.add(key.hex())
        return key
    except (ValueError, KeyError, TypeError, NotImplementedError, AttributeError) as error:
        raise WalletMisconfigured(
            f"keystore_file: {path} cannot be opened with the password of {settings.keystore_password_file}"
        ) from error
