"""The doubles against the golden vectors: deployed at the vectors' addresses, they emit byte-identical logs and accept
every signature of the vectors as it stands.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract_asking import errors_by_selector, type_text

from kmsd.sandbox.accounts import CREATE, Account, Call, RawSender, account, fund
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.rpc import RpcError
from kmsd.sandbox.solidity import compiled
from kmsd.wire.contract import declared
from kmsd.wire.keccak import keccak256

VECTORS_FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS = json.loads((VECTORS_FOLDER / "gateway.json").read_text())
ERA = VECTORS["v0.11"]
META = VECTORS["meta"]
IMPLEMENTATION_SLOT = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc"
DURING = 1_750_003_600
"""A time within the validity of the vectors' user requests."""

OWNER = account("owner")
FEE_TOKEN = keccak256(b"fee token")[12:]


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def address(name: str) -> bytes:
    return raw(META["addresses"][name])


def key(name: str) -> Account:
    return Account(raw(META["accounts"][name]["private_key"]))


class VectorWorld:
    """The doubles at the vectors' addresses, on a chain with the vectors' id and a fitting time."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.senders: dict[bytes, RawSender] = {}
        config, commits, rights = (address(n) for n in ("GatewayConfig", "CiphertextCommits", "MultichainACL"))
        zero = bytes(12)
        self.place("FeeToken", FEE_TOKEN)
        self.place("GatewayConfig", config, b"", declared("initialize(address)").encode(OWNER.address))
        self.place("CiphertextCommits", commits, zero + config)
        self.place("MultichainACL", rights, zero + config)
        words = b"".join(zero + one for one in (config, commits, rights, FEE_TOKEN)) + (7).to_bytes(32, "big")
        self.place("Decryption", address("Decryption"), words, declared("initialize()").encode())
        generation = address("KMSGeneration_gateway")
        self.place("KMSGeneration", generation, zero + config, declared("initialize()").encode())
        self.register()

    def register(self) -> None:
        nodes = tuple(
            (key(f"kmsTxSender{n}").address, key(f"kmsSigner{n}").address, f"10.0.0.{n}", f"https://kms{n}.example/pub")
            for n in (1, 2)
        )
        update = declared("updateKmsNodes((address,address,string,string)[],uint256,uint256,uint256,uint256)")
        chain = (META["host_chain_id"], address("ACL_host"), address("ACL_host"), "host", "https://host.example")
        bucket = ERA["views"]["getCoprocessor"]["returns"][0]["s3BucketUrl"]
        signer = address("Coprocessor1Signer")
        copros = tuple((address(f"Coprocessor{n}TxSender"), signer, bucket) for n in (1, 2))
        config = address("GatewayConfig")
        self.run(OWNER, config, declared("addHostChain((uint256,address,address,string,string))").encode(chain))
        self.run(OWNER, config, update.encode(nodes, 1, 2, 1, 1))
        self.run(OWNER, config, declared("updateCoprocessors((address,address,string)[],uint256)").encode(copros, 1))

    def place(self, name: str, at: bytes, arguments: bytes = b"", initialisation: bytes = b"") -> None:
        """A proxy at a chosen address, with an implementation wherever the chain puts it."""
        sender = self.sender(OWNER)
        receipt = sender.run([Call(CREATE, compiled()[name].bytecode + arguments, 8_000_000)])[0]
        where = "0x" + at.hex()
        self.anvil.call("anvil_setCode", where, "0x" + compiled()["Proxy"].runtime.hex())
        word = "0x" + bytes(12).hex() + receipt["contractAddress"][2:]
        self.anvil.call("anvil_setStorageAt", where, IMPLEMENTATION_SLOT, word)
        if initialisation:
            sender.run([Call(at, initialisation)])

    def sender(self, who: Account) -> RawSender:
        if who.address not in self.senders:
            fund(self.anvil.rpc, [who])
            self.senders[who.address] = RawSender(who, self.anvil.chain_id, self.anvil.rpc)
        return self.senders[who.address]

    def run(self, who: Account, to: bytes, data: bytes) -> list[dict[str, Any]]:
        """The logs of a transaction that succeeds."""
        logs: list[dict[str, Any]] = self.sender(who).run([Call(to, data)])[0]["logs"]
        return logs

    def replay(self, call: str, who: Account) -> list[dict[str, Any]]:
        """The logs of a call of the vectors, sent as it stands."""
        vector = ERA["calls"][call]
        return self.run(who, raw(vector["to"]), raw(vector["calldata"]))

    def prepare_handles(self) -> None:
        """What the vectors' requests need: materials of both handles, rights of all accounts, a delegation."""
        event = ERA["events"]["PublicDecryptionRequest"]["decoded"]
        commits, rights = address("CiphertextCommits"), address("MultichainACL")
        handles = []
        for material in event["snsCtMaterials"]:
            handles.append(raw(material["ctHandle"]))
            senders = tuple(raw(one) for one in material["coprocessorTxSenderAddresses"])
            function = declared("sandboxAddCiphertextMaterials(bytes32[],uint256,bytes32[],address[])")
            digest = raw(material["snsCiphertextDigest"])
            self.run(OWNER, commits, function.encode((handles[-1],), int(material["keyId"], 16), (digest,), senders))
        by = (address("Coprocessor1TxSender"),)
        public = declared("sandboxAllowPublicDecrypt(bytes32[],address[])")
        self.run(OWNER, rights, public.encode(tuple(handles), by))
        accounts = declared("sandboxAllowAccounts(bytes32[],address[],address[])")
        for who in (key("user").address, key("delegator").address, address("dapp")):
            self.run(OWNER, rights, accounts.encode(tuple(handles), (who,) * len(handles), by))
        copro = META["addresses"]["Coprocessor1TxSender"]
        delegate = declared("delegateUserDecryption(uint256,address,address,address,uint64,uint64)").encode(
            META["host_chain_id"], key("delegator").address, key("delegate").address, address("dapp"), 1, DURING + 86400
        )
        self.anvil.set_balance(copro, 10**20)
        self.anvil.call("anvil_impersonateAccount", copro)
        self.anvil.call(
            "eth_sendTransaction",
            {"from": copro, "to": META["addresses"]["MultichainACL"], "data": "0x" + delegate.hex()},
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[VectorWorld]:
    with Anvil(META["gateway_chain_id"], tmp_path, timestamp=DURING) as anvil:
        yield VectorWorld(anvil)


def same(log: dict[str, Any], vector: str) -> None:
    expected = ERA["events"][vector]
    assert log["address"].lower() == expected["address"].lower(), vector
    assert log["topics"] == expected["topics"], vector
    assert log["data"] == expected["data"], vector


def test_decryptions_replayed(world: VectorWorld) -> None:
    """Requests and answers of the vectors, as they stand: same logs, all signatures accepted."""
    world.prepare_handles()
    user, nodes = key("user"), (key("kmsTxSender1"), key("kmsTxSender2"))

    transfer, request = world.replay("publicDecryptionRequest", user)
    assert raw(transfer["topics"][0]) == keccak256(b"Transfer(address,address,uint256)")
    assert raw(transfer["address"]) == FEE_TOKEN
    same(request, "PublicDecryptionRequest")
    same(world.replay("userDecryptionRequest", user)[-1], "UserDecryptionRequest")
    same(world.replay("delegatedUserDecryptionRequest", key("delegate"))[-1], "UserDecryptionRequest_delegated")

    (call,) = world.replay("publicDecryptionResponse", nodes[0])
    same(call, "PublicDecryptionResponseCall")
    _, consensus = world.replay("publicDecryptionResponse_node2", nodes[1])
    same(consensus, "PublicDecryptionResponse")
    share, reached = world.replay("userDecryptionResponse", nodes[0])
    same(share, "UserDecryptionResponse")
    same(reached, "UserDecryptionResponseThresholdReached")

    # The realistic case: answers with empty extra data, to further requests of the same handles.
    world.replay("publicDecryptionRequest", user)
    world.replay("userDecryptionRequest", user)
    assert len(world.replay("publicDecryptionResponse_emptyExtraData", nodes[0])) == 1
    assert len(world.replay("userDecryptionResponse_emptyExtraData", nodes[0])) == 2


def test_ceremonies_replayed(world: VectorWorld) -> None:
    """The owner's commands and the answers of the vectors, as they stand."""
    node = key("kmsTxSender1")
    same(world.replay("keygen", OWNER)[0], "PrepKeygenRequest")
    answer, keygen = world.replay("prepKeygenResponse", node)
    same(answer, "PrepKeygenResponse")
    same(keygen, "KeygenRequest")
    answer, active = world.replay("keygenResponse", node)
    same(answer, "KeygenResponse")
    same(active, "ActivateKey")
    same(world.replay("crsgenRequest", OWNER)[0], "CrsgenRequest")
    answer, active = world.replay("crsgenResponse", node)
    same(answer, "CrsgenResponse")
    same(active, "ActivateCrs")
    same(world.replay("prssInit", OWNER)[0], "PRSSInit")
    same(world.replay("keyReshareSameSet", OWNER)[0], "KeyReshareSameSet")


@pytest.mark.parametrize(
    "name", ["isDecryptionDone", "isPublicDecryptionReady", "getCoprocessor", "getCoprocessor_unknown", "getKmsNode"]
)
def test_views_replayed(world: VectorWorld, name: str) -> None:
    """Views of the Gateway give the return data of the vectors, byte for byte."""
    world.prepare_handles()
    world.replay("publicDecryptionRequest", key("user"))
    view = ERA["views"][name]
    answer = world.anvil.call("eth_call", {"to": view["to"], "data": view["calldata"]}, "latest")
    assert answer == view["returndata"]


def test_refusals_have_the_vectors_data(world: VectorWorld) -> None:
    """The revert data of the vectors, where their arguments can be had."""
    world.prepare_handles()
    world.replay("publicDecryptionRequest", key("user"))
    world.replay("publicDecryptionResponse", key("kmsTxSender1"))
    data = raw(ERA["calls"]["publicDecryptionResponse"]["calldata"])
    to = ERA["calls"]["publicDecryptionResponse"]["to"]

    def refused(who: Account, calldata: bytes) -> str:
        with pytest.raises(RpcError) as caught:
            world.anvil.call("eth_call", {"from": who.text, "to": to, "data": "0x" + calldata.hex()}, "latest")
        return str(caught.value.data)

    assert refused(key("kmsTxSender1"), data) == ERA["errors"]["KmsNodeAlreadySigned"]["data"]
    assert refused(key("user"), data) == ERA["errors"]["NotKmsTxSender"]["data"]
    unknown = data[:4] + raw(ERA["errors"]["DecryptionNotRequested"]["args"][0]) + data[36:]
    assert refused(key("kmsTxSender1"), unknown) == ERA["errors"]["DecryptionNotRequested"]["data"]
    second = raw(ERA["calls"]["publicDecryptionResponse_node2"]["calldata"])
    assert refused(key("kmsTxSender1"), second) == ERA["errors"]["KmsSignerDoesNotMatchTxSender"]["data"]


def test_selectors_and_topics() -> None:
    """All of the network's ABI fragments is in the doubles: events, errors, functions, with their types and flags."""
    artifacts = compiled()
    for path in sorted((VECTORS_FOLDER / "abi-v0.11").glob("*.json")):
        ours = {_shape(entry) for entry in artifacts[path.stem].abi}
        missing = {_shape(entry) for entry in json.loads(path.read_text())} - ours
        assert not missing, path.stem


def test_error_data_of_the_vectors_is_known() -> None:
    """The selector of every error of the vectors belongs to that error in the doubles."""
    known = errors_by_selector()
    for name, vector in ERA["errors"].items():
        assert known[raw(vector["data"])[:4]][0] == name


def _shape(entry: dict[str, Any]) -> tuple[Any, ...]:
    inputs = tuple((type_text(one), one.get("indexed", False)) for one in entry.get("inputs", ()))
    outputs = tuple(type_text(one) for one in entry.get("outputs", ()))
    return (entry["type"], entry.get("name"), inputs, outputs, entry.get("stateMutability"))
