"""Our descriptors against the contracts' ABI: every selector, topic, argument name and view of era v0.11."""

import json
from pathlib import Path
from typing import Any

import pytest

from kmsd.wire.contract import custom_error, declared
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11 import calls, events, views
from kmsd.wire.v0_11.errors import CLASS_OF, ERRORS

VECTORS = Path(__file__).parent.parent / "vectors"
SELECTORS = json.loads((VECTORS / "selectors.json").read_text())["v0.11"]
CONTRACTS = {path.stem: json.loads(path.read_text()) for path in sorted((VECTORS / "abi-v0.11").glob("*.json"))}

# Functions that a connector neither calls nor meets; `declared` describes one where it is needed.
NOT_DESCRIBED = {
    "addCiphertextMaterial",
    "allow",
    "allowForDecryption",
    "allowedTransient",
    "delegateForUserDecryption",
    "getCiphertextMaterials",
    "isAccountDenied",
    "revokeDelegationForUserDecryption",
    "updateCoprocessors",
    "updateKmsNodes",
}


def type_of(parameter: dict[str, Any]) -> str:
    """The canonical text of a parameter of an ABI file."""
    if parameter["type"].startswith("tuple"):
        return f"({','.join(map(type_of, parameter['components']))}){parameter['type'][5:]}"
    return str(parameter["type"])


def entries(kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, entry) for name, abi in CONTRACTS.items() for entry in abi if entry["type"] == kind]


def test_all_contracts_are_here() -> None:
    assert (
        set(SELECTORS) == set(CONTRACTS) == {"ACL", "CiphertextCommits", "Decryption", "GatewayConfig", "KMSGeneration"}
    )


def test_events() -> None:
    theirs = {
        signature: topic
        for contract in ("Decryption", "KMSGeneration")
        for signature, topic in SELECTORS[contract]["events"].items()
    }
    assert {event.signature: f"0x{event.topic.hex()}" for event in events.EVENTS} == theirs
    for contract, entry in entries("event"):
        if contract in ("Decryption", "KMSGeneration"):
            ours = events.BY_NAME[entry["name"]]
            assert ours.contract == contract
            assert [type_of(i) for i in entry["inputs"] if i["indexed"]] == [kind.name for kind in ours.indexed]
            assert ours.fields.name == f"({','.join(type_of(i) for i in entry['inputs'] if not i['indexed'])})"
            # Solidity's camelCase against our snake_case, without underscores on both sides.
            names = [i["name"].lower() for i in entry["inputs"]]
            aliases = {"snsctmaterials": "snsmaterials"}
            assert [aliases.get(n, n) for n in names] == [f.replace("_", "") for f in ours.record._fields]


def test_errors() -> None:
    theirs = {signature: s for contract in SELECTORS.values() for signature, s in contract["errors"].items()}
    generic = {"Error(string)": "0x08c379a0", "Panic(uint256)": "0x4e487b71"}
    assert {error.signature: f"0x{error.selector.hex()}" for error in ERRORS.values()} == theirs | generic
    assert set(CLASS_OF) == set(ERRORS)
    for _, entry in entries("error"):
        assert list(ERRORS[entry["name"]].argument_names) == [i["name"] for i in entry["inputs"]]


def test_functions() -> None:
    described = {**calls.FUNCTIONS, **views.VIEWS}
    for contract in SELECTORS.values():
        for signature, selector in contract["functions"].items():
            if signature.split("(")[0] not in NOT_DESCRIBED:
                assert described[bytes.fromhex(selector[2:])].signature == signature
    known = {selector for contract in SELECTORS.values() for selector in contract["functions"].values()}
    assert {f"0x{selector.hex()}" for selector in described} <= known


@pytest.mark.parametrize("function", views.VIEWS.values(), ids=lambda f: str(f.name))
def test_return_types_of_views(function: Any) -> None:
    outputs = {
        ",".join(map(type_of, entry["outputs"]))
        for _, entry in entries("function")
        if entry["name"] == function.name and entry["stateMutability"] in ("view", "pure")
    }
    assert outputs == {function.returns.name[1:-1]}


def test_enums_of_the_contracts_are_enums_here() -> None:
    """An enum is `uint8` in the ABI; the ABI files say which ones are, and Solidity refuses numbers beyond."""
    enums = {
        (entry["name"], parameter["name"])
        for kind in ("event", "function")
        for _, entry in entries(kind)
        for parameter in entry["inputs"]
        if "enum" in parameter.get("internalType", "")
    }
    assert enums == {
        ("CrsgenRequest", "paramsType"),
        ("KeyReshareSameSet", "paramsType"),
        ("PrepKeygenRequest", "paramsType"),
        ("crsgenRequest", "paramsType"),
        ("keygen", "paramsType"),
    }


def test_declaration_of_an_error() -> None:
    error = custom_error("NotKmsSigner(address signerAddress)")
    assert (error.name, error.signature, error.argument_names) == (
        "NotKmsSigner",
        "NotKmsSigner(address)",
        ("signerAddress",),
    )
    for text in ("NotKmsSigner", "(address)", "Not KmsSigner(address)"):
        with pytest.raises(WireError):
            custom_error(text)


def test_declaration_of_a_function() -> None:
    functions = {s: f for contract in SELECTORS.values() for s, f in contract["functions"].items()}
    for signature, selector in functions.items():
        assert f"0x{declared(signature).selector.hex()}" == selector
    balance = declared("balanceOf(address account)", "(uint256 balance)")
    assert balance.decode_return(balance.encode_return((5,))) == (5,)
    assert balance.decode(balance.encode(b"a" * 20)) == (b"a" * 20,)
