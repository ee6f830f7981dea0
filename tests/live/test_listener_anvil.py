"""The listener on a real chain: the doubles' own events, heads over WebSocket, reorganisations, a node that hangs."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from chain_pair import Chains
from contract_asking import Gateway
from faulty_node import FaultyNode
from listener_world import MemoryStore, World

from kmsd.chain.bloom import Interest
from kmsd.chain.node import HttpNode
from kmsd.clock import SystemTime
from kmsd.config import Contract, GatewayNode, Settings
from kmsd.listening.decoding import topics_of
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind, Stream
from kmsd.operations.table import OPERATIONS
from kmsd.ports import DependencyDown, Node, RpcAnswer, RpcCall, RpcError
from kmsd.sandbox import requests
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.rpc import RpcClient
from kmsd.sandbox.rpc import RpcError as AnvilError
from kmsd.wire.v0_11 import events

Eventually = Callable[..., Awaitable[Any]]


def _world(chains: Chains, nodes: list[tuple[str, str, str | None]], **settings: Any) -> World:
    """A listener's world over HTTP nodes (name, URL, WebSocket URL) of the Gateway chain."""
    deployment = chains.deployment
    metrics, health = Metrics(), Health(SystemTime())
    real: list[Node] = [
        HttpNode(name, chains.gateway.chain_id, [url], ws_url, health, metrics) for name, url, ws_url in nodes
    ]
    return World(
        nodes=real,  # type: ignore[arg-type]
        store=MemoryStore(),
        settings=Settings(
            database_url="postgresql://unused",
            gateway_chain_id=chains.gateway.chain_id,
            gateway_nodes=tuple(GatewayNode(name, url, ws_url) for name, url, ws_url in nodes),
            decryption_contract=Contract(deployment.decryption, "Decryption"),
            kms_generation_contract=Contract(deployment.kms_generation, "KMSGeneration"),
            **settings,
        ),
        metrics=metrics,
        health=health,
    )


class Proxy:
    """A second node of the same chain: passes calls on to anvil, except as `change` says."""

    def __init__(self, anvil: Anvil) -> None:
        self._rpc = RpcClient(anvil.port)
        self.change: Callable[[RpcCall, Any], Any] = lambda call, result: result

    def __call__(self, call: RpcCall) -> RpcAnswer:
        try:
            return RpcAnswer(self.change(call, self._rpc.call(call.method, *call.params)))
        except AnvilError as error:
            return RpcAnswer(None, RpcError(error.code, error.message, error.data or None))

    def close(self) -> None:
        self._rpc.close()


@pytest.fixture
def proxy(chains: Chains) -> Iterator[Proxy]:
    one = Proxy(chains.gateway)
    yield one
    one.close()


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(work, *arguments)


@pytest.mark.parametrize("pushes", [True, False])
async def test_every_event_of_the_contracts(chains: Chains, pushes: bool) -> None:
    """Requests of all seven kinds, and the facts of their consensus, as the contracts emit them."""
    asking = Gateway(chains.gateway, chains.host, chains.deployment)
    await _in_thread(asking.prepare)
    anvil, d = chains.gateway, chains.deployment
    w = _world(chains, [("main", anvil.url, anvil.ws_url if pushes else None)], key_management_polling=0.5)
    emitted: list[Any] = []

    def act() -> None:
        def vote_all(request: Any) -> list[Any]:
            return [event for number in (1, 2, 3) for event in asking.vote(number, request)]

        public = asking.ask(requests.public_request(d, asking.handles))
        emitted.extend([public, *vote_all(public)])
        emitted.append(asking.ask(requests.user_request(d, asking.user, asking.handles, asking.now)))
        prep = asking.own(requests.keygen(d))
        emitted.append(prep)
        after_prep = vote_all(prep)
        keygen = next(one for one in after_prep if isinstance(one, events.KeygenRequest))
        emitted.extend([*after_prep, *vote_all(keygen)])
        crs = asking.own(requests.crsgen(d))
        emitted.extend([crs, *vote_all(crs)])
        emitted.append(asking.own(requests.prss_init(d)))
        emitted.append(asking.own(requests.key_reshare(d, keygen.key_id)))

    async with w.listening():
        await w.read_up_to(anvil.block_number(), seconds=20)
        await _in_thread(act)
        await w.read_up_to(anvil.block_number(), seconds=20)
    asked = {
        (op.kind, 0 if op.kind is Kind.PRSS_INIT else getattr(record, op.id_column)): record
        for record in emitted
        for op in OPERATIONS.values()
        if events.event_of(record).name == op.event
    }
    assert {key: row.arrival.event for key, row in w.store.rows.items()} == asked
    assert {kind for kind, _ in asked} == set(Kind)
    facts = [
        one
        for one in emitted
        if isinstance(one, events.PublicDecryptionResponse | events.ActivateKey | events.ActivateCrs)
    ]
    assert [fact.event for fact in sorted(w.store.facts, key=lambda fact: fact.block_number)] == facts
    assert len(facts) == 3
    for row in w.store.rows.values():
        assert row.arrival.content_hash == events.content_hash(row.arrival.event)
    if pushes:
        assert w.metrics.value("kms_connector_node_heads_pushed", "main") > 10


async def test_filters_of_real_blocks_name_our_logs(chains: Chains) -> None:
    asking = Gateway(chains.gateway, chains.host, chains.deployment)
    await _in_thread(asking.prepare)
    d = chains.deployment
    await _in_thread(lambda: asking.ask(requests.public_request(d, asking.handles)))
    with_request = chains.gateway.block_number()
    await _in_thread(lambda: asking.own(requests.prss_init(d)))
    with_ceremony = chains.gateway.block_number()
    for stream, contract, ours, theirs in (
        (Stream.DECRYPTION, d.decryption, with_request, with_ceremony),
        (Stream.KEY_MANAGEMENT, d.kms_generation, with_ceremony, with_request),
    ):
        interest = Interest(contract, topics_of(stream))
        for number, expected in ((ours, True), (theirs, False)):
            bloom = chains.gateway.call("eth_getBlockByNumber", hex(number), False)["logsBloom"]
            assert interest.may_be_in(bytes.fromhex(bloom[2:])) is expected


@pytest.mark.guarantee("EV5")
async def test_a_reorganisation_of_a_real_node(chains: Chains) -> None:
    asking = Gateway(chains.gateway, chains.host, chains.deployment)
    await _in_thread(asking.prepare)
    anvil, d = chains.gateway, chains.deployment
    w = _world(chains, [("main", anvil.url, anvil.ws_url)], decryption_polling=0.2)
    ask = lambda: asking.ask(requests.public_request(d, asking.handles))  # noqa: E731
    async with w.listening():
        await w.read_up_to(anvil.block_number(), seconds=20)
        first = await _in_thread(ask)
        await w.read_up_to(anvil.block_number(), seconds=20)
        snapshot = anvil.snapshot()
        fork = anvil.block_number()
        await _in_thread(ask)
        orphan = await _in_thread(ask)
        await w.store.until(lambda: len(w.ids()) == 3, seconds=20)
        gone = w.store.rows[Kind.PUBLIC_DECRYPTION, orphan.decryption_id].arrival
        anvil.revert(snapshot)
        for sender in asking._senders.values():
            sender.forget_nonce()
        again = await _in_thread(lambda: asking.ask(requests.public_request(d, asking.handles[:1])))
        for _ in range(3):
            anvil.mine()
        head = anvil.block_number()
        await w.store.until(lambda: bool(w.store.withdrawn), seconds=20)
        await w.read_up_to(head, seconds=20)
    assert {number for _, number in w.store.rows} == {first.decryption_id, again.decryption_id}
    assert {ref.id for ref in w.store.withdrawn} >= {orphan.decryption_id}
    assert gone.block_number > fork
    row = w.store.rows[Kind.PUBLIC_DECRYPTION, again.decryption_id].arrival
    assert row.event == again, "the id means the new request now"
    assert row.block_hash.hex() == anvil.block_hash(row.block_number)[2:]


@pytest.mark.guarantee("EV4")
@pytest.mark.guarantee("EV3")
async def test_a_second_node_that_omits_lags_and_splits(chains: Chains, proxy: Proxy) -> None:
    """One node of two drops every log; the other's logs lag behind its blocks by one for a while."""
    asking = Gateway(chains.gateway, chains.host, chains.deployment)
    await _in_thread(asking.prepare)
    anvil, d = chains.gateway, chains.deployment
    lagging = Proxy(anvil)

    def lag(call: RpcCall, result: Any) -> Any:
        if call.method != "eth_getLogs":
            return result
        return [log for log in result if int(log["blockNumber"], 16) < anvil.block_number()]

    proxy.change = lambda call, result: [] if call.method == "eth_getLogs" else result
    lagging.change = lag
    async with FaultyNode(proxy).serving() as omitting, FaultyNode(lagging).serving() as behind:
        w = _world(chains, [("omits", omitting.url, None), ("lags", behind.url, None)], decryption_polling=0.1)
        async with w.listening():
            await w.read_up_to(anvil.block_number(), seconds=20)
            asked = [
                await _in_thread(lambda: asking.ask(requests.public_request(d, asking.handles))) for _ in range(12)
            ]
            anvil.mine()
            await w.store.until(
                lambda: {number for _, number in w.store.rows} == {one.decryption_id for one in asked}, seconds=20
            )
    lagging.close()


@pytest.mark.guarantee("EV2")
@pytest.mark.guarantee("EV8")
async def test_a_node_that_hangs_dies_and_comes_back(new_chains: Callable[..., Chains], eventually: Eventually) -> None:
    chains = new_chains()
    anvil, d = chains.gateway, chains.deployment
    asking = Gateway(anvil, chains.host, d)
    await _in_thread(asking.prepare)
    w = _world(chains, [("main", anvil.url, anvil.ws_url)], decryption_polling=0.2, rpc_timeout=0.5)
    ask = lambda: asking.ask(requests.public_request(d, asking.handles))  # noqa: E731
    async with w.listening():
        await w.read_up_to(anvil.block_number(), seconds=20)
        await _in_thread(ask)
        await w.store.until(lambda: len(w.ids()) == 1, seconds=20)

        anvil.pause()
        await eventually(lambda: not w.health.is_up("gateway node main"), what="the hanging node is noticed")
        anvil.resume()
        await _in_thread(ask)
        await w.store.until(lambda: len(w.ids()) == 2, seconds=15)

        await _in_thread(anvil.stop)
        await eventually(lambda: not w.health.is_up("gateway node main"), what="the dead node is noticed")
        await _in_thread(anvil.start)
        for sender in asking._senders.values():
            sender.forget_nonce()
        await _in_thread(ask)
        await w.store.until(lambda: len(w.ids()) == 3, seconds=15)
        await eventually(lambda: w.health.is_up("gateway node main"), what="the node is up again")


@pytest.mark.guarantee("EV8")
async def test_a_node_of_another_chain_is_never_read(chains: Chains) -> None:
    node = HttpNode("main", 999, [chains.gateway.url], chains.gateway.ws_url, Health(SystemTime()), Metrics())
    with pytest.raises(
        DependencyDown, match=r"gateway node main: .* is on chain 123456, but the configuration says 999"
    ):
        await node.batch([RpcCall("eth_blockNumber", ())], deadline=5)
    heads = node.heads()
    assert heads is not None
    with pytest.raises(DependencyDown, match="it is on chain 123456, but the configuration says 999"):
        async with heads:
            pass


async def test_once_over_a_real_chain(chains: Chains) -> None:
    asking = Gateway(chains.gateway, chains.host, chains.deployment)
    await _in_thread(asking.prepare)
    anvil, d = chains.gateway, chains.deployment
    start = anvil.block_number()
    w = _world(chains, [("main", anvil.url, None)], decryption_from_block_number=start, get_logs_batch_size=7)
    ask = lambda: asking.ask(requests.public_request(d, asking.handles))  # noqa: E731
    asked = [(await _in_thread(ask)).decryption_id for _ in range(20)]
    listener = w.listener()
    head = await listener.head()
    await _in_thread(ask)
    await listener.read_to(head)
    assert [number for _, number in w.store.rows] == asked
    assert (await listener.count_after(head))[Kind.PUBLIC_DECRYPTION] == 1
    assert w.store.cursors["main", Stream.DECRYPTION].number == head
