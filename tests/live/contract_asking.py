"""Asks the contract doubles in tests: one account's calls, what came of them, and every refusal by name."""

import time
from typing import Any

from kmsd.sandbox import requests
from kmsd.sandbox.accounts import Account, Call, RawSender, Reverted, account, fund
from kmsd.sandbox.answers import ScriptedParty
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.contracts import Deployment
from kmsd.sandbox.handles import ciphertext_digest, make_handles
from kmsd.sandbox.logs import records
from kmsd.sandbox.rpc import RpcError
from kmsd.sandbox.solidity import compiled
from kmsd.wire import abi
from kmsd.wire.contract import Function, declared
from kmsd.wire.keccak import keccak256

KEY_ID = (4 << 248) + 1
DAPP = account("dapp").address


def errors_by_selector() -> dict[bytes, tuple[str, abi.AbiType[Any]]]:
    """Every custom error of every double: name and arguments."""
    known: dict[bytes, tuple[str, abi.AbiType[Any]]] = {}
    for artifact in compiled().values():
        for entry in artifact.abi:
            if entry["type"] == "error":
                arguments = abi.parse_type("(" + ",".join(type_text(one) for one in entry["inputs"]) + ")")
                selector = keccak256((entry["name"] + arguments.name).encode())[:4]
                known[selector] = (entry["name"], arguments)
    return known


def type_text(parameter: dict[str, Any]) -> str:
    """The canonical type of a parameter of a JSON ABI."""
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(type_text(one) for one in parameter["components"]) + ")" + kind.removeprefix("tuple")


class Gateway:
    """The doubles of one deployment, as its owner, its users and its parties use them."""

    def __init__(self, gateway: Anvil, host: Anvil, deployment: Deployment) -> None:
        self.gateway, self.host, self.deployment = gateway, host, deployment
        self.errors = errors_by_selector()
        self.parties = [ScriptedParty(deployment, number) for number in range(1, len(deployment.parties) + 1)]
        self.handles = list(make_handles(4, host.chain_id))
        self.user = requests.asker(account("user"), DAPP)
        self.delegate = requests.asker(account("delegate"), DAPP, delegator=account("user"))
        self.now = int(self.gateway.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        self._senders: dict[tuple[int, bytes], RawSender] = {}

    def sender(self, who: Account, chain: Anvil | None = None) -> RawSender:
        """The account's sender on a chain (the Gateway's)."""
        on = chain or self.gateway
        key = (on.chain_id, who.address)
        if key not in self._senders:
            fund(on.rpc, [who])
            self._senders[key] = RawSender(who, on.chain_id, on.rpc)
        return self._senders[key]

    def prepare(self, *, delegated: bool = False) -> None:
        """Materials and rights for `handles`, for everybody and for the user; a delegation, if asked for."""
        d, both = self.deployment, (self.user.owner, self.user.contract)
        digests = [ciphertext_digest(handle, 1000) for handle in self.handles]
        calls = requests.material_calls(d, self.handles, digests, KEY_ID)
        calls += requests.gateway_public_calls(d, self.handles)
        for who in both:
            calls += requests.gateway_account_calls(d, self.handles, [who] * len(self.handles))
        self.run(d.owner, *calls)
        self.sender(d.owner, self.host).run(requests.host_allow_calls(d, self.handles, both, for_decryption=True))
        if delegated:
            self.run(d.coprocessors[0].tx, requests.gateway_delegation_call(d, self.delegate, self.now))
            delegator = self.delegate.delegator
            assert delegator is not None
            self.sender(delegator, self.host).run([requests.host_delegation_call(d, self.delegate, int(time.time()))])

    def run(self, who: Account, *calls: Call) -> list[Any]:
        """Sends the calls, which must succeed; returns the events that they made."""
        return list(records(self.sender(who).run(calls)))

    def ask(self, call: Call) -> Any:
        """A request by a stranger; returns its event."""
        return self.run(account("stranger"), call)[-1]

    def own(self, call: Call) -> Any:
        """A command of the owner; returns its event."""
        return self.run(self.deployment.owner, call)[-1]

    def vote(self, number: int, request: Any) -> list[Any]:
        """Party `number` answers; returns the events."""
        party = self.parties[number - 1]
        call = party.answer(request)
        assert call is not None
        return self.run(party.party.tx, call)

    def refusal(self, who: Account, call: Call, *, value_of: bool = True) -> tuple[Any, ...]:
        """The custom error's name and arguments that the call reverts with; ("",) for an empty revert."""
        request = {"from": who.text, "to": "0x" + call.to.hex(), "data": "0x" + call.data.hex()}
        try:
            self.gateway.call("eth_call", request, "latest")
        except RpcError as error:
            data = bytes.fromhex(error.data.removeprefix("0x"))
            if not data:
                return ("",)
            name, arguments = self.errors[data[:4]]
            return (name, *abi.decode_fields(arguments, data[4:])) if value_of else (name,)
        raise AssertionError("the contract did not refuse")

    def view(self, to: bytes, function: Function[Any, Any], *arguments: Any, chain: Anvil | None = None) -> Any:
        """What a view returns."""
        request = {"to": "0x" + to.hex(), "data": "0x" + function.encode(*arguments).hex()}
        answer: str = (chain or self.gateway).call("eth_call", request, "latest")
        return function.decode_return(bytes.fromhex(answer[2:]))

    def config(self, declaration: str, *arguments: Any) -> None:
        """A command of the owner to GatewayConfig."""
        self.run(self.deployment.owner, Call(self.deployment.gateway_config, declared(declaration).encode(*arguments)))


__all__ = ["DAPP", "KEY_ID", "Gateway", "Reverted", "errors_by_selector", "type_text"]
