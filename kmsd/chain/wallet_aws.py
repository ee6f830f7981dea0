"""A transaction key inside AWS KMS: GetPublicKey once, Sign for each digest (ECC_SECG_P256K1, ECDSA_SHA_256, DIGEST).

boto3 blocks, so each call runs in a thread of this wallet's own limiter; several signatures are in flight, and
throttling slows down the pace instead of failing anything.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import boto3
import botocore.config
import botocore.exceptions
import trio

from kmsd.chain.wallet_aws_pace import Pace
from kmsd.config import AwsKms
from kmsd.ports import WalletUnavailable
from kmsd.wire.errors import WireError
from kmsd.wire.signatures import address_of_public_key, recover

log = logging.getLogger("kmsd.wallet")

IN_FLIGHT = 16
"""Signatures asked for side by side."""
CALL_DEADLINE = 8.0
"""Seconds for one call; boto3's own limits (3 s to connect, 5 s to read) end the thread in that time."""
SIGN_DEADLINE = 20.0
"""Seconds for one signature with all its tries, throttling included."""

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The order of secp256k1's group (SEC 2)."""

SPKI_PREFIX = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
"""What precedes the 65-byte point in the DER of an uncompressed secp256k1 public key (RFC 5480)."""

THROTTLED = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException"}
)
"""Error codes that mean: slower."""

Result = TypeVar("Result")


def public_key_from_der(der: bytes) -> bytes:
    """The 65-byte SEC1 point of a DER SubjectPublicKeyInfo; raises ValueError for another curve or form."""
    if len(der) != len(SPKI_PREFIX) + 65 or not der.startswith(SPKI_PREFIX):
        raise ValueError("the public key is not an uncompressed point of secp256k1 (key spec ECC_SECG_P256K1)")
    return der[len(SPKI_PREFIX) :]


def scalars_from_der(der: bytes) -> tuple[int, int]:
    """r and s of a DER ECDSA signature, each within the group's order; raises ValueError."""
    if len(der) < 8 or der[0] != 0x30 or der[1] != len(der) - 2 or der[1] >= 0x80:
        raise ValueError("not a DER signature")
    scalars = []
    position = 2
    for _ in range(2):
        if position + 2 > len(der) or der[position] != 0x02:
            raise ValueError("not a DER signature of two integers")
        size = der[position + 1]
        text = der[position + 2 : position + 2 + size]
        if size == 0 or len(text) != size or text[0] >= 0x80:
            raise ValueError("a DER integer that is truncated or negative")
        scalars.append(int.from_bytes(text, "big"))
        position += 2 + size
    if position != len(der) or not all(0 < scalar < ORDER for scalar in scalars):
        raise ValueError("a DER signature with trailing bytes, or out of range")
    return scalars[0], scalars[1]


def recoverable(digest: bytes, der: bytes, address: bytes) -> bytes:
    """65-byte r‖s‖v with low s (EIP-2) from a DER signature of `digest` by the key of `address`; raises ValueError."""
    r, s = scalars_from_der(der)
    s = min(s, ORDER - s)
    for v in (27, 28):
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((v,))
        try:
            if recover(digest, signature) == address:
                return signature
        except WireError:
            continue
    raise ValueError("the signature is not by the key whose public key AWS KMS gave")


class AwsWallet:
    """Signs through AWS KMS (ports.Wallet). Nothing is asked before `learn_address` or `sign`."""

    is_remote = True

    def __init__(self, key: AwsKms) -> None:
        self._key = key
        self._name = f"AWS KMS key {key.key_id}"
        self._limiter = trio.CapacityLimiter(IN_FLIGHT)
        self._client: Any = None
        self._address: bytes | None = None
        self._opening = trio.Lock()
        self._pace = Pace()

    def __repr__(self) -> str:
        return f"AwsWallet({self._key.key_id})"

    @property
    def address(self) -> bytes:
        """The 20-byte address; raises WalletUnavailable until `learn_address` has succeeded."""
        if self._address is None:
            raise WalletUnavailable(self._name, "its public key has not been read yet")
        return self._address

    async def learn_address(self) -> bytes:
        """The 20-byte address, from GetPublicKey the first time. Raises WalletUnavailable."""
        async with self._opening:
            if self._address is None:
                if self._client is None:
                    self._client = await self._in_thread(self._connect)
                reply = await self._call(lambda: self._client.get_public_key(KeyId=self._key.key_id))
                try:
                    self._address = address_of_public_key(public_key_from_der(reply["PublicKey"]))
                except (KeyError, ValueError) as error:
                    raise WalletUnavailable(self._name, str(error)) from error
                log.info("%s signs for 0x%s", self._name, self._address.hex())
        return self._address

    async def sign(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """65-byte signatures of the first digests that could be signed; raises WalletUnavailable when none could."""
        address = await self.learn_address()
        signatures: list[bytes | None] = [None] * len(digests)
        faults: list[WalletUnavailable] = []
        waiting = iter(range(len(digests)))

        async def sign_in_order() -> None:
            for index in waiting:
                try:
                    signatures[index] = await self._sign(digests[index], address)
                except WalletUnavailable as fault:
                    faults.append(fault)
                if faults:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(IN_FLIGHT, len(digests))):
                nursery.start_soon(sign_in_order)
        prefix: list[bytes] = []
        for signature in signatures:
            if signature is None:
                break
            prefix.append(signature)
        if digests and not prefix:
            raise faults[0]
        return prefix

    async def _sign(self, digest: bytes, address: bytes) -> bytes:
        def call() -> Any:
            return self._client.sign(
                KeyId=self._key.key_id, Message=digest, MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256"
            )

        reply = await self._call(call)
        try:
            return recoverable(digest, reply["Signature"], address)
        except (KeyError, ValueError) as error:
            raise WalletUnavailable(self._name, f"unusable signature: {error}") from error

    async def _call(self, call: Callable[[], Result]) -> Result:
        """Make a call at the present pace, again and more slowly while throttled, within SIGN_DEADLINE."""
        started = trio.current_time()
        while True:
            await self._pace.turn()
            asked_at = trio.current_time()
            try:
                result = await self._in_thread(call)
            except botocore.exceptions.ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code not in THROTTLED:
                    raise WalletUnavailable(self._name, f"{code}: see the key's state, policy and region") from error
                self._pace.throttled(asked_at)
                if trio.current_time() - started > SIGN_DEADLINE:
                    raise WalletUnavailable(self._name, f"throttled for {SIGN_DEADLINE:.0f} s") from error
                continue
            self._pace.answered()
            return result

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        try:
            with trio.fail_after(CALL_DEADLINE):
                # a thread left behind by the deadline ends by boto3's own limits
                return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except trio.TooSlowError as error:
            raise WalletUnavailable(self._name, f"no answer within {CALL_DEADLINE:.0f} s") from error
        except botocore.exceptions.ClientError:
            raise
        except botocore.exceptions.BotoCoreError as error:
            raise WalletUnavailable(self._name, f"{type(error).__name__}: {_without_urls(error)}") from error

    def _connect(self) -> Any:
        config = botocore.config.Config(
            connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1}, max_pool_connections=IN_FLIGHT
        )
        session = boto3.session.Session(region_name=self._key.region)
        return session.client("kms", endpoint_url=self._key.endpoint, config=config)


def _without_urls(error: Exception) -> str:
    """The error's words without the endpoint's path and query."""
    return " ".join(word if "://" not in word else "(endpoint)" for word in str(error).split())
