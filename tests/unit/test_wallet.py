"""Where the transaction key comes from, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from kmsd.chain.wallet import LocalWallet, WalletMisconfigured, open_wallet, parse_private_key
from kmsd.config import AwsKms, Settings
from kmsd.wire.signatures import address_of, recover

KEY = bytes(range(3, 35))
TEXT = "0x" + KEY.hex()


def settings(**keys: Any) -> Settings:
    return Settings("postgresql:///x", **{"gateway_chain_id": 54321, **keys})


def secret(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_signs_recoverably() -> None:
    wallet = LocalWallet(KEY)
    digests = [bytes((i,)) * 32 for i in range(150)]
    signatures = await wallet.sign(digests)
    assert [recover(d, s) for d, s in zip(digests, signatures, strict=True)] == [address_of(KEY)] * 150
    assert await wallet.learn_address() == wallet.address
    assert KEY.hex() not in repr(wallet)


@pytest.mark.parametrize("text", [TEXT, TEXT[2:], TEXT.upper().replace("0X", "0x"), f" {TEXT}\n"])
def test_forms_of_a_key(text: str) -> None:
    assert open_wallet(settings(private_key=text), {}).address == address_of(KEY)


@pytest.mark.parametrize("text", ["0x12", "zz" * 32, "00" * 32, "ff" * 32, "0x" + "11" * 33])
def test_bad_keys_are_named_and_not_shown(text: str) -> None:
    with pytest.raises(WalletMisconfigured, match="where_it_is") as error:
        parse_private_key(text, "where_it_is")
    assert text not in str(error.value)


def test_key_from_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    path = secret(tmp_path / "key", TEXT + "\n")
    assert open_wallet(settings(private_key_file=path), {}).address == address_of(KEY)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o610])
def test_files_that_others_can_touch_are_refused(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path / "key", TEXT, mode)
    with pytest.raises(WalletMisconfigured, match=f"mode {mode:04o}.*chmod 600"):
        open_wallet(settings(private_key_file=path), {})


def test_missing_and_odd_files_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(WalletMisconfigured, match="private_key_file"):
            open_wallet(settings(private_key_file=str(path)), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(WalletMisconfigured, match="not text"):
        open_wallet(settings(private_key_file=str(tmp_path / "binary")), {})


def test_systemd_credential_is_used_where_nothing_is_configured(tmp_path: Path) -> None:
    secret(tmp_path / "private_key", TEXT, 0o440)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert open_wallet(settings(), environment).address == address_of(KEY)
    other = open_wallet(settings(private_key="11" * 32), environment)
    assert other.address == address_of(b"\x11" * 32)
    through_key = open_wallet(settings(private_key_file=str(tmp_path / "private_key")), environment)
    assert through_key.address == address_of(KEY)


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_keystore_with_its_password_file(tmp_path: Path, kdf: str) -> None:
    iterations = 2 if kdf == "scrypt" else 10
    keystore = Account.encrypt(KEY, "pass word", kdf=kdf, iterations=iterations)
    path = secret(tmp_path / "keystore.json", json.dumps(keystore))
    password = secret(tmp_path / "password", "pass word\n")
    wallet = open_wallet(settings(keystore_file=path, keystore_password_file=password), {})
    assert wallet.address == address_of(KEY)
    wrong = secret(tmp_path / "wrong", "another")
    with pytest.raises(WalletMisconfigured, match="cannot be opened") as error:
        open_wallet(settings(keystore_file=path, keystore_password_file=wrong), {})
    assert "another" not in str(error.value)
    with pytest.raises(WalletMisconfigured, match="keystore_password_file"):
        open_wallet(settings(keystore_file=path), {})
    with pytest.raises(WalletMisconfigured, match="mode 0644"):
        open_wallet(
            settings(keystore_file=path, keystore_password_file=secret(tmp_path / "open", "pass word", 0o644)), {}
        )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 3}', "not json"])
def test_files_that_are_no_keystore(tmp_path: Path, content: str) -> None:
    path = secret(tmp_path / "keystore.json", content)
    password = secret(tmp_path / "password", "x")
    with pytest.raises(WalletMisconfigured, match="keystore_file"):
        open_wallet(settings(keystore_file=path, keystore_password_file=password), {})


def test_exactly_one_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WalletMisconfigured, match=r"no transaction key.*private_key_file"):
        open_wallet(settings(), {})
    path = secret(tmp_path / "key", TEXT)
    with pytest.raises(WalletMisconfigured, match="private_key and private_key_file"):
        open_wallet(settings(private_key=TEXT, private_key_file=path), {})
    with pytest.raises(WalletMisconfigured, match="private_key_file and aws_kms_config"):
        open_wallet(settings(private_key_file=path, aws_kms_config=AwsKms("k")), {})
    both = open_wallet(settings(private_key=TEXT, aws_kms_config=AwsKms("k")), {})
    assert both.address == address_of(KEY)
    assert "private_key is used" in caplog.text


@pytest.mark.parametrize(("chain_id", "warns"), [(54321, False), (31337, False), (261131, True)])
def test_raw_keys_outside_test_networks_are_warned_about(
    chain_id: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    open_wallet(settings(private_key=TEXT, gateway_chain_id=chain_id), {})
    assert ("raw private key" in caplog.text) is warns
    assert KEY.hex() not in caplog.text
