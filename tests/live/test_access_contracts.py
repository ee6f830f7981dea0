"""Access checks against real contracts on real nodes: the ACL of the host chain, and the transactions of the Gateway.

Requests are made as users make them; what the events and the nodes then say is checked by `kmsd.chain.access` (WK1).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from chain_pair import Chains
from contract_asking import DAPP, Gateway
from worker_world import Clock

from kmsd.chain.access import Access, NotAllowed
from kmsd.chain.chain import Chain
from kmsd.chain.node import HttpNode
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.ports import DependencyDown
from kmsd.sandbox import requests
from kmsd.sandbox.accounts import account
from kmsd.wire.eip712 import Domain

NOBODY = "http://127.0.0.1:9"
"""A URL where nobody listens."""


@pytest.fixture
def gateway(chains: Chains) -> Gateway:
    made = Gateway(chains.gateway, chains.host, chains.deployment)
    made.prepare(delegated=True)
    return made


@asynccontextmanager
async def checking(
    gateway: Gateway, *, urls: Sequence[str] = (), host_urls: Sequence[str] = (), deadline: float = 20.0
) -> AsyncIterator[Access]:
    """Access over HTTP to both chains."""
    d, health, metrics = gateway.deployment, Health(Clock()), Metrics()
    gateway_node = HttpNode("main", d.gateway_chain_id, urls or [gateway.gateway.url], None, health, metrics)
    host_node = HttpNode("host", d.host_chain_id, host_urls or [gateway.host.url], None, health, metrics)
    access = Access(
        gateway=Chain([gateway_node], health),
        hosts={d.host_chain_id: Chain([host_node], health)},
        acls={d.host_chain_id: d.acl},
        decryption=Domain("Decryption", "1", d.gateway_chain_id, d.decryption),
        gateway_deadline=deadline,
        host_deadline=deadline,
        host_concurrency=4,
        metrics=metrics,
        health=health,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.run)
        try:
            yield access
        finally:
            nursery.cancel_scope.cancel()
    await gateway_node.close()
    await host_node.close()


async def _check_user(access: Access, gateway: Gateway, who: requests.Asker) -> None:
    """Ask for the handles as `who`, and check that request."""
    event = gateway.ask(requests.user_request(gateway.deployment, who, gateway.handles, gateway.now))
    block = gateway.gateway.call("eth_getBlockByNumber", "latest", False)
    tx_hash = bytes.fromhex(block["transactions"][-1][2:])
    await access.check_user(event, tx_hash=tx_hash, block_number=int(block["number"], 16), reporting_node="main")


@pytest.mark.guarantee("WK1")
async def test_what_the_contracts_allow_is_allowed(gateway: Gateway) -> None:
    async with checking(gateway) as access:
        await access.check_public(gateway.handles)
        await _check_user(access, gateway, gateway.user)
        await _check_user(access, gateway, gateway.delegate)


@pytest.mark.guarantee("WK1")
async def test_a_transaction_is_found_by_its_block_where_the_row_has_none(gateway: Gateway) -> None:
    event = gateway.ask(requests.user_request(gateway.deployment, gateway.user, gateway.handles, gateway.now))
    number = gateway.gateway.block_number()
    async with checking(gateway) as access:
        await access.check_user(event, tx_hash=None, block_number=number, reporting_node=None)


TAKEN: dict[str, tuple[Callable[[Gateway], Any], Callable[[Gateway], bytes]]] = {
    "from the user": (lambda gateway: gateway.user, lambda gateway: gateway.user.owner),
    "from the user's contract": (lambda gateway: gateway.user, lambda gateway: DAPP),
    "from the delegator": (lambda gateway: gateway.delegate, lambda gateway: gateway.delegate.owner),
    "from the delegate's contract": (lambda gateway: gateway.delegate, lambda gateway: DAPP),
}


@pytest.mark.guarantee("WK1")
@pytest.mark.parametrize("case", TAKEN)
async def test_a_right_that_the_host_chain_lacks_is_missed(gateway: Gateway, case: str) -> None:
    """The Gateway let the request pass; the host chain says no about one account and one handle."""
    who, whose = TAKEN[case]
    handle = gateway.handles[1]
    d = gateway.deployment
    gateway.sender(d.owner, gateway.host).run(requests.host_forbid_calls(d, [handle], [whose(gateway)]))
    async with checking(gateway) as access:
        with pytest.raises(NotAllowed) as info:
            await _check_user(access, gateway, who(gateway))
    assert handle.hex() in info.value.words


@pytest.mark.guarantee("WK1")
async def test_a_delegation_that_only_the_gateway_knows_is_none(gateway: Gateway) -> None:
    stranger = requests.asker(account("another delegate"), DAPP, delegator=account("user"))
    gateway.run(
        gateway.deployment.coprocessors[0].tx,
        requests.gateway_delegation_call(gateway.deployment, stranger, gateway.now),
    )
    async with checking(gateway) as access:
        with pytest.raises(NotAllowed, match="isHandleDelegatedForUserDecryption"):
            await _check_user(access, gateway, stranger)


@pytest.mark.guarantee("WK1")
async def test_a_handle_that_nobody_allowed_for_decryption(gateway: Gateway) -> None:
    unknown = bytes([7]) * 21 + gateway.handles[0][21:]
    async with checking(gateway) as access:
        with pytest.raises(NotAllowed, match="isAllowedForDecryption"):
            await access.check_public([*gateway.handles, unknown])


async def test_a_backup_answers_where_the_node_does_not(gateway: Gateway) -> None:
    urls, host_urls = [NOBODY, gateway.gateway.url], [NOBODY, gateway.host.url]
    async with checking(gateway, urls=urls, host_urls=host_urls) as access:
        await access.check_public(gateway.handles)
        await _check_user(access, gateway, gateway.user)


@pytest.mark.guarantee("WK1", "WK3")
@pytest.mark.parametrize("host_urls", [[NOBODY], [NOBODY, NOBODY]], ids=["alone", "with a dead backup"])
async def test_where_no_node_answers_nothing_is_allowed(gateway: Gateway, host_urls: list[str]) -> None:
    async with checking(gateway, host_urls=host_urls, deadline=3.0) as access:
        with pytest.raises(DependencyDown):
            await access.check_public(gateway.handles)


@pytest.mark.guarantee("WK1")
async def test_a_node_of_another_chain_is_not_believed(gateway: Gateway) -> None:
    """The Gateway's node in the host chain's place."""
    async with checking(gateway, host_urls=[gateway.gateway.url], deadline=3.0) as access:
        with pytest.raises(DependencyDown):
            await access.check_public(gateway.handles)
