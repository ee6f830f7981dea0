"""Deploys the contract doubles on a Gateway chain and a host chain, and registers a committee and coprocessors."""

import json
from collections.abc import Sequence
from typing import Any

import attrs

from kmsd.sandbox.accounts import CREATE, Account, Call, RawSender, account, created_address, fund
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.solidity import Artifact, compiled
from kmsd.wire import abi
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.contract import declared
from kmsd.wire.eip712 import Domain

GATEWAY_CHAIN_ID = 123456
HOST_CHAIN_ID = 12345
"""Chain ids of a sandbox by default; no real network has them."""

FEE = 10**15
"""Units of the fee token that a request costs."""

_CREATE_GAS = 8_000_000


@attrs.frozen
class Party:
    """A member of the committee: `tx` sends its transactions, `signer` is its KMS Core's key."""

    tx: Account
    signer: Account
    storage_url: str


@attrs.frozen
class Coprocessor:
    """A coprocessor and the address of its bucket."""

    tx: Account
    signer: Account
    bucket_url: str


@attrs.frozen
class Thresholds:
    """How many make a decision. `mpc` is smaller than the committee; the others are at most its size."""

    mpc: int = 1
    public_decryption: int = 3
    user_decryption: int = 3
    kms_generation: int = 3
    coprocessors: int = 1


@attrs.frozen
class Deployment:
    """Everything about deployed doubles. Addresses have 20 bytes."""

    gateway_chain_id: int
    host_chain_id: int
    owner: Account
    parties: tuple[Party, ...]
    coprocessors: tuple[Coprocessor, ...]
    thresholds: Thresholds
    gateway_config: bytes
    ciphertext_commits: bytes
    multichain_acl: bytes
    fee_token: bytes
    decryption: bytes
    kms_generation: bytes
    request_burst: bytes
    acl: bytes
    kms_verifier: bytes

    @property
    def decryption_domain(self) -> Domain:
        """The EIP-712 domain of decryption answers."""
        return Domain("Decryption", "1", self.gateway_chain_id, self.decryption)

    @property
    def request_domain(self) -> Domain:
        """The EIP-712 domain of users' requests: that of answers, but with the host chain's id."""
        return Domain("Decryption", "1", self.host_chain_id, self.decryption)

    @property
    def kms_generation_domain(self) -> Domain:
        """The EIP-712 domain of key-management answers."""
        return Domain("KMSGeneration", "1", self.gateway_chain_id, self.kms_generation)

    def to_json(self) -> str:
        """The deployment, private keys included, for the sandbox's other processes."""
        return json.dumps(attrs.asdict(self, value_serializer=_to_plain))

    @classmethod
    def from_json(cls, text: str) -> "Deployment":
        """Reads what `to_json` wrote."""
        plain = json.loads(text)
        addresses = {field.name: parse_address(plain[field.name]) for field in attrs.fields(cls) if field.type is bytes}
        return cls(
            gateway_chain_id=plain["gateway_chain_id"],
            host_chain_id=plain["host_chain_id"],
            owner=_read_account(plain["owner"]),
            parties=tuple(
                Party(_read_account(one["tx"]), _read_account(one["signer"]), one["storage_url"])
                for one in plain["parties"]
            ),
            coprocessors=tuple(
                Coprocessor(_read_account(one["tx"]), _read_account(one["signer"]), one["bucket_url"])
                for one in plain["coprocessors"]
            ),
            thresholds=Thresholds(**plain["thresholds"]),
            **addresses,
        )


def committee(size: int = 4, *, first: Party | None = None) -> tuple[Party, ...]:
    """`size` parties with fixed keys; `first` takes the place of the first one."""
    parties = [
        Party(account(f"party {number} tx"), account(f"party {number} signer"), f"http://kms-{number}.sandbox/public")
        for number in range(1, size + 1)
    ]
    if first is not None:
        parties[0] = first
    return tuple(parties)


def coprocessors(bucket_urls: Sequence[str]) -> tuple[Coprocessor, ...]:
    """A coprocessor with fixed keys for each bucket."""
    return tuple(
        Coprocessor(account(f"coprocessor {number} tx"), account(f"coprocessor {number} signer"), url)
        for number, url in enumerate(bucket_urls, 1)
    )


def deploy(
    gateway: Anvil,
    host: Anvil,
    *,
    parties: Sequence[Party] | None = None,
    copros: Sequence[Coprocessor] | None = None,
    thresholds: Thresholds | None = None,
) -> Deployment:
    """Deploys and registers everything; takes well under a second once compiled. Each chain must be fresh.

    Raises Reverted when a contract refuses, for example for thresholds above the committee's size.
    """
    members = tuple(parties if parties is not None else committee())
    helpers = tuple(copros if copros is not None else coprocessors(["http://127.0.0.1:9/bucket-1"]))
    needed = thresholds or Thresholds()
    owner = account("owner")
    artifacts = compiled()
    on_gateway, on_host = _Plan(owner, artifacts), _Plan(owner, artifacts)

    config = on_gateway.proxied("GatewayConfig", b"", declared("initialize(address)").encode(owner.address))
    commits = on_gateway.proxied("CiphertextCommits", _words(config))
    rights = on_gateway.proxied("MultichainACL", _words(config))
    fees = on_gateway.create("FeeToken")
    initialise = declared("initialize()").encode()
    decryption = on_gateway.proxied("Decryption", _words(config, commits, rights, fees) + _number(FEE), initialise)
    generation = on_gateway.proxied("KMSGeneration", _words(config), initialise)
    burst = on_gateway.create("RequestBurst", _words(decryption))

    acl = on_host.proxied("ACL", b"", declared("initialize(address)").encode(owner.address))
    signers = tuple(party.signer.address for party in members)
    verifier = on_host.proxied(
        "KMSVerifier",
        _words(decryption) + _number(gateway.chain_id),
        declared("initialize(address,address[],uint256)").encode(owner.address, signers, needed.public_decryption),
    )

    on_gateway.calls += [
        Call(config, add_host_chain(host.chain_id, acl)),
        Call(config, update_kms_nodes(members, needed), 30_000_000),
        Call(config, update_coprocessors(helpers, needed.coprocessors), 30_000_000),
    ]
    for chain, plan in ((gateway, on_gateway), (host, on_host)):
        fund(chain.rpc, [owner, *(party.tx for party in members), *(helper.tx for helper in helpers)])
        RawSender(owner, chain.chain_id, chain.rpc).run(plan.calls)
    return Deployment(
        gateway_chain_id=gateway.chain_id,
        host_chain_id=host.chain_id,
        owner=owner,
        parties=members,
        coprocessors=helpers,
        thresholds=needed,
        gateway_config=config,
        ciphertext_commits=commits,
        multichain_acl=rights,
        fee_token=fees,
        decryption=decryption,
        kms_generation=generation,
        request_burst=burst,
        acl=acl,
        kms_verifier=verifier,
    )


def update_kms_nodes(parties: Sequence[Party], thresholds: Thresholds) -> bytes:
    """Calldata for GatewayConfig (owner): these are the KMS nodes from now on."""
    nodes = tuple((one.tx.address, one.signer.address, "127.0.0.1", one.storage_url) for one in parties)
    function = declared("updateKmsNodes((address,address,string,string)[],uint256,uint256,uint256,uint256)")
    return function.encode(
        nodes, thresholds.mpc, thresholds.public_decryption, thresholds.user_decryption, thresholds.kms_generation
    )


def update_coprocessors(copros: Sequence[Coprocessor], threshold: int) -> bytes:
    """Calldata for GatewayConfig (owner): these are the coprocessors from now on."""
    rows = tuple((one.tx.address, one.signer.address, one.bucket_url) for one in copros)
    return declared("updateCoprocessors((address,address,string)[],uint256)").encode(rows, threshold)


def add_host_chain(chain_id: int, acl: bytes, name: str = "sandbox host chain") -> bytes:
    """Calldata for GatewayConfig (owner): this host chain takes part."""
    row = (chain_id, acl, acl, name, "http://host.sandbox")
    return declared("addHostChain((uint256,address,address,string,string))").encode(row)


class _Plan:
    """Transactions of the owner on a fresh chain, and the addresses that they will give."""

    def __init__(self, owner: Account, artifacts: dict[str, Artifact]) -> None:
        self._owner = owner
        self._artifacts = artifacts
        self.calls: list[Call] = []

    def create(self, name: str, arguments: bytes = b"") -> bytes:
        """Plans a contract and returns its address."""
        address = created_address(self._owner.address, len(self.calls))
        self.calls.append(Call(CREATE, self._artifacts[name].bytecode + arguments, _CREATE_GAS))
        return address

    def proxied(self, name: str, arguments: bytes = b"", initialisation: bytes = b"") -> bytes:
        """Plans a contract behind a proxy and returns the proxy's address."""
        implementation = self.create(name, arguments)
        constructor = abi.encode_fields(abi.parse_parameters("(address,bytes)").type, (implementation, initialisation))
        return self.create("Proxy", constructor)


def _words(*addresses: bytes) -> bytes:
    return b"".join(bytes(12) + address for address in addresses)


def _number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _to_plain(_: Any, field: Any, value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    return value.hex() if field is not None and field.name == "key" else to_checksum(value)


def _read_account(plain: dict[str, str]) -> Account:
    return Account(bytes.fromhex(plain["key"]))
