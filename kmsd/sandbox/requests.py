"""Calldata of everything that makes a request: materials, rights, delegations, and the requests themselves.

Pure; who sends it is said with each. Each `…_calls` is cut into transactions of bounded size.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from kmsd.sandbox.accounts import Account, Call
from kmsd.sandbox.ciphertexts import fake_public_key
from kmsd.sandbox.contracts import Deployment
from kmsd.wire.contract import declared
from kmsd.wire.signatures import sign
from kmsd.wire.v0_11 import calls, typed_data
from kmsd.wire.v0_11.structs import ContractsInfo, DelegationAccounts, HandleContractPair, RequestValidity

EXTRA_DATA = b"\0"
"""What requests conventionally carry in this era."""

VALID_DAYS = 30
DELEGATION_SECONDS = 30 * 86_400
"""How long a user's permission and a delegation last."""

HANDLES_PER_CALL = 100

_ADD_MATERIALS = declared("sandboxAddCiphertextMaterials(bytes32[],uint256,bytes32[],address[])")
_ALLOW_PUBLIC = declared("sandboxAllowPublicDecrypt(bytes32[],address[])")
_ALLOW_ACCOUNTS = declared("sandboxAllowAccounts(bytes32[],address[],address[])")
_HOST_ALLOW = declared("sandboxAllow(bytes32[],address[],bool)")
_HOST_FORBID = declared("sandboxForbid(bytes32[],address[])")
_HOST_DELEGATE = declared("delegateForUserDecryption(address,address,uint64)")
_GATEWAY_DELEGATE = declared("delegateUserDecryption(uint256,address,address,address,uint64,uint64)")
_BURST = declared("request(bytes32[],uint256,bytes)")

T = TypeVar("T")


class Asker(NamedTuple):
    """Who asks for a user decryption: for handles of its own, or (`delegator`) for another account's."""

    account: Account
    contract: bytes
    public_key: bytes
    delegator: Account | None = None

    @property
    def owner(self) -> bytes:
        """The account whose handles they are."""
        return (self.delegator or self.account).address


def asker(account: Account, contract: bytes, delegator: Account | None = None) -> Asker:
    """An asker with a public key of its own."""
    return Asker(account, contract, fake_public_key(account.address), delegator)


def material_calls(
    deployment: Deployment,
    handles: Sequence[bytes],
    digests: Sequence[bytes],
    key_id: int,
    senders: Sequence[bytes] | None = None,
) -> list[Call]:
    """To the Gateway, by the owner: every coprocessor (or only `senders`) has committed these ciphertexts."""
    by = tuple(one.tx.address for one in deployment.coprocessors) if senders is None else tuple(senders)
    to = deployment.ciphertext_commits
    return [
        Call(to, _ADD_MATERIALS.encode(some, key_id, those, by), 1_000_000 + len(some) * (300_000 + 120_000 * len(by)))
        for some, those in zip(_parts(handles), _parts(digests), strict=True)
    ]


def gateway_public_calls(deployment: Deployment, handles: Sequence[bytes]) -> list[Call]:
    """To the Gateway, by the owner: everybody may decrypt these."""
    by = _majority(deployment)
    gas = 150_000 * len(by)
    return [
        Call(deployment.multichain_acl, _ALLOW_PUBLIC.encode(some, by), 1_000_000 + gas * len(some))
        for some in _parts(handles)
    ]


def gateway_account_calls(deployment: Deployment, handles: Sequence[bytes], accounts: Sequence[bytes]) -> list[Call]:
    """To the Gateway, by the owner: the account at the same place may use the handle."""
    by = _majority(deployment)
    gas = 150_000 * len(by)
    return [
        Call(deployment.multichain_acl, _ALLOW_ACCOUNTS.encode(some, those, by), 1_000_000 + gas * len(some))
        for some, those in zip(_parts(handles), _parts(accounts), strict=True)
    ]


def host_allow_calls(
    deployment: Deployment, handles: Sequence[bytes], accounts: Sequence[bytes], *, for_decryption: bool = False
) -> list[Call]:
    """To the host chain, by the owner: each account may use each handle; everybody may, with `for_decryption`."""
    gas = 60_000 * (len(accounts) + 1)
    return [
        Call(deployment.acl, _HOST_ALLOW.encode(some, tuple(accounts), for_decryption), 500_000 + gas * len(some))
        for some in _parts(handles)
    ]


def host_forbid_calls(deployment: Deployment, handles: Sequence[bytes], accounts: Sequence[bytes]) -> list[Call]:
    """To the host chain, by the owner: takes the rights back, so that a check of the host chain says no."""
    return [Call(deployment.acl, _HOST_FORBID.encode(some, tuple(accounts))) for some in _parts(handles)]


def host_delegation_call(deployment: Deployment, who: Asker, now: int) -> Call:
    """To the host chain, by the delegator: the asker may decrypt for it, from `now` (Unix seconds of that chain)."""
    return Call(
        deployment.acl,
        _HOST_DELEGATE.encode(who.account.address, who.contract, now + DELEGATION_SECONDS),
        300_000,
    )


def gateway_delegation_call(deployment: Deployment, who: Asker, now: int) -> Call:
    """To the Gateway, by a majority of coprocessors, each for itself: the same delegation."""
    arguments = (deployment.host_chain_id, who.owner, who.account.address, who.contract, 1, now + DELEGATION_SECONDS)
    return Call(deployment.multichain_acl, _GATEWAY_DELEGATE.encode(*arguments), 400_000)


def public_request(deployment: Deployment, handles: Sequence[bytes], extra_data: bytes = EXTRA_DATA) -> Call:
    """To the Gateway, by anybody: decrypt these for everyone."""
    data = calls.PUBLIC_DECRYPTION_REQUEST.encode(tuple(handles), extra_data)
    return Call(deployment.decryption, data, 1_000_000 + 200_000 * len(handles))


def public_burst(deployment: Deployment, handles: Sequence[bytes], rounds: int = 1) -> Call:
    """To the Gateway, by anybody: a request of its own for each handle, `rounds` times over, in one transaction."""
    data = _BURST.encode(tuple(handles), rounds, EXTRA_DATA)
    return Call(deployment.request_burst, data, 1_000_000 + 260_000 * len(handles) * rounds)


def user_request(
    deployment: Deployment, who: Asker, handles: Sequence[bytes], now: int, extra_data: bytes = EXTRA_DATA
) -> Call:
    """To the Gateway, by anybody: decrypt these for the asker, who signs; directly or for its delegator.

    `now` is a time of the Gateway chain (Unix seconds); the permission begins a minute before.
    """
    pairs = tuple(HandleContractPair(handle, who.contract) for handle in handles)
    validity = RequestValidity(now - 60, VALID_DAYS)
    contracts = ContractsInfo(deployment.host_chain_id, (who.contract,))
    domain = deployment.request_domain
    if who.delegator is None:
        digest = typed_data.user_request_digest(
            domain, who.public_key, contracts.addresses, *validity, extra_data=extra_data
        )
        signature = sign(digest, who.account.key)
        data = calls.USER_DECRYPTION_REQUEST.encode(
            pairs, validity, contracts, who.account.address, who.public_key, signature, extra_data
        )
    else:
        digest = typed_data.delegated_user_request_digest(
            domain, who.public_key, contracts.addresses, who.owner, *validity, extra_data=extra_data
        )
        signature = sign(digest, who.account.key)
        accounts = DelegationAccounts(who.owner, who.account.address)
        data = calls.DELEGATED_USER_DECRYPTION_REQUEST.encode(
            pairs, validity, accounts, contracts, who.public_key, signature, extra_data
        )
    return Call(deployment.decryption, data, 2_000_000 + 250_000 * len(handles))


def keygen(deployment: Deployment, params_type: int = 1) -> Call:
    """To the Gateway, by the owner: prepare and make a key. One at a time."""
    return Call(deployment.kms_generation, calls.KEYGEN.encode(params_type), 500_000)


def crsgen(deployment: Deployment, max_bit_length: int = 2048, params_type: int = 1) -> Call:
    """To the Gateway, by the owner: make a CRS. One at a time."""
    return Call(deployment.kms_generation, calls.CRSGEN_REQUEST.encode(max_bit_length, params_type), 500_000)


def prss_init(deployment: Deployment) -> Call:
    """To the Gateway, by the owner: initialise the PRSS."""
    return Call(deployment.kms_generation, calls.PRSS_INIT.encode(), 200_000)


def key_reshare(deployment: Deployment, key_id: int) -> Call:
    """To the Gateway, by the owner: share a finished key anew among the same parties."""
    return Call(deployment.kms_generation, calls.KEY_RESHARE_SAME_SET.encode(key_id), 300_000)


def _majority(deployment: Deployment) -> tuple[bytes, ...]:
    return tuple(one.tx.address for one in deployment.coprocessors[: deployment.thresholds.coprocessors])


def _parts(items: Sequence[T]) -> Iterator[tuple[T, ...]]:
    return (tuple(items[start : start + HANDLES_PER_CALL]) for start in range(0, len(items), HANDLES_PER_CALL))
