"""AWS KMS through boto3 against an own double over HTTP."""

import contextlib
from collections.abc import Iterator, Sequence

import pytest
import trio
from aws_kms_double import AwsKmsDouble, der_signature

from kmsd.chain import wallet_aws
from kmsd.chain.wallet import open_wallet
from kmsd.chain.wallet_aws import AwsWallet, public_key_from_der, recoverable, scalars_from_der
from kmsd.config import AwsKms, Settings
from kmsd.ports import WalletUnavailable
from kmsd.wire.keccak import keccak256
from kmsd.wire.signatures import address_of, recover

KEY = bytes(range(2, 34))
HALF_ORDER = wallet_aws.ORDER // 2
DIGESTS = [keccak256(bytes((i,))) for i in range(40)]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)


@pytest.fixture
def double() -> Iterator[AwsKmsDouble]:
    with AwsKmsDouble(KEY) as double:
        yield double


@pytest.fixture
def wallet(double: AwsKmsDouble) -> AwsWallet:
    return AwsWallet(AwsKms(double.key_id, "eu-west-1", double.url))


async def test_address_and_signatures_recover_with_low_s(double: AwsKmsDouble, wallet: AwsWallet) -> None:
    with pytest.raises(WalletUnavailable):
        _ = wallet.address
    assert await wallet.learn_address() == address_of(KEY) == wallet.address
    signatures = await wallet.sign(DIGESTS)
    assert double.high_s == len(DIGESTS) // 2
    for digest, signature in zip(DIGESTS, signatures, strict=True):
        assert int.from_bytes(signature[32:64], "big") <= HALF_ORDER
        assert recover(digest, signature) == address_of(KEY)


async def test_several_signatures_are_in_flight(double: AwsKmsDouble, wallet: AwsWallet) -> None:
    await wallet.learn_address()
    double.hang.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wallet.sign, DIGESTS)
        with trio.fail_after(10):
            while double.together < wallet_aws.IN_FLIGHT:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert double.most_together == wallet_aws.IN_FLIGHT
        double.hang.clear()
        double.release.set()


async def test_throttling_slows_down_and_fails_nothing(double: AwsKmsDouble, wallet: AwsWallet) -> None:
    await wallet.learn_address()
    double.rate = 50.0
    signed = 0
    for _ in range(4):
        signed += len(await wallet.sign(DIGESTS))
    assert signed == 4 * len(DIGESTS)
    assert double.throttled > 0


async def test_what_was_signed_before_a_fault_is_a_prefix(double: AwsKmsDouble, wallet: AwsWallet) -> None:
    await wallet.learn_address()
    signatures = await wallet.sign(DIGESTS[:5])
    assert len(signatures) == 5
    double.fail_next = ["KMSInvalidStateException"]
    prefix: Sequence[bytes] = ()
    with contextlib.suppress(WalletUnavailable):  # where the very first digest met the fault
        prefix = await wallet.sign(DIGESTS)
    assert not double.fail_next
    assert len(prefix) < len(DIGESTS)
    for digest, signature in zip(DIGESTS, prefix, strict=False):
        assert recover(digest, signature) == address_of(KEY)
    assert len(await wallet.sign(DIGESTS)) == len(DIGESTS), "usable again at once"


async def test_hanging_service_is_left_after_the_deadline(
    double: AwsKmsDouble, wallet: AwsWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wallet.learn_address()
    monkeypatch.setattr(wallet_aws, "CALL_DEADLINE", 0.3)
    double.hang.set()
    started = trio.current_time()
    with pytest.raises(WalletUnavailable, match="no answer within"):
        await wallet.sign(DIGESTS[:3])
    assert trio.current_time() - started < 2


async def test_unreachable_service_and_wrong_keys_are_told_apart(double: AwsKmsDouble) -> None:
    with pytest.raises(WalletUnavailable, match="AWS KMS key k"):
        await AwsWallet(AwsKms("k", "eu-west-1", "http://127.0.0.1:9")).learn_address()
    with pytest.raises(WalletUnavailable, match="NotFoundException"):
        await AwsWallet(AwsKms("other", "eu-west-1", double.url)).learn_address()
    double.wrong_curve = True
    with pytest.raises(WalletUnavailable, match="secp256k1"):
        await AwsWallet(AwsKms(double.key_id, "eu-west-1", double.url)).learn_address()


async def test_missing_region_and_credentials_are_named(double: AwsKmsDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(WalletUnavailable, match="region"):
        await AwsWallet(AwsKms(double.key_id)).learn_address()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(WalletUnavailable, match="credentials"):
        await AwsWallet(AwsKms(double.key_id, "eu-west-1", double.url)).learn_address()


def test_open_wallet_asks_nobody() -> None:
    key = AwsKms("alias/x", "eu-west-1", "http://127.0.0.1:9")
    assert open_wallet(Settings("postgresql:///x", aws_kms_config=key)).is_remote


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x06\x02\x01\x01\x02\x01",
        b"\x30\x06\x02\x01\x00\x02\x01\x01",
        b"\x30\x06\x02\x01\x81\x02\x01\x01",
        b"\x31\x06\x02\x01\x01\x02\x01\x01",
        b"\x30\x07\x02\x01\x01\x02\x01\x01\x00",
        der_signature(wallet_aws.ORDER, 1),
    ],
)
def test_bad_der_is_refused(der: bytes) -> None:
    with pytest.raises(ValueError, match="DER"):
        scalars_from_der(der)


def test_signature_by_another_key_is_refused() -> None:
    with pytest.raises(ValueError, match="not by the key"):
        recoverable(DIGESTS[0], der_signature(5, 7), address_of(KEY))
    with pytest.raises(ValueError, match="secp256k1"):
        public_key_from_der(b"\x30" * 88)
