"""A chain of several nodes as one thing to ask, and typed views over it."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from kmsd.chain import views
from kmsd.chain.chain import Chain
from kmsd.chain.views import ViewRefused
from kmsd.clock import SystemTime
from kmsd.observe.health import Health
from kmsd.ports import DependencyDown, RpcAnswer, RpcCall, RpcError
from kmsd.wire.v0_11 import views as wire
from kmsd.wire.v0_11.structs import Coprocessor, KeyDigest, KmsNode
from kmsd.wire.v0_11.views import Eip712DomainView, KeyMaterials

CONTRACT = b"\x0c" * 20
CALL = RpcCall("eth_blockNumber", ())


class ScriptedNode:
    """A node that answers every call with `result`, or is down, or hangs."""

    def __init__(self, name: str, result: object = "0x1", chain_id: int = 1) -> None:
        self.name = name
        self.chain_id = chain_id
        self.result = result
        self.down = False
        self.hangs = False
        self.asked: list[Sequence[RpcCall]] = []

    async def batch(self, calls: Sequence[RpcCall], *, deadline: float) -> Sequence[RpcAnswer]:
        self.asked.append(calls)
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep(deadline)
        if self.down or self.hangs:
            raise DependencyDown(f"gateway node {self.name}", "no answer")
        answers = self.result if isinstance(self.result, list) else [self.result] * len(calls)
        return [one if isinstance(one, RpcAnswer) else RpcAnswer(one) for one in answers]

    def heads(self) -> None:
        return None


def _chain(*nodes: ScriptedNode, name: str | None = None) -> tuple[Chain, Health]:
    health = Health(SystemTime())
    return Chain(nodes, health, name=name), health


async def test_the_first_healthy_node_answers(autojump_clock: trio.testing.MockClock) -> None:
    one, two = ScriptedNode("one"), ScriptedNode("two")
    chain, health = _chain(one, two, name="gateway")
    await chain.batch([CALL], deadline=1)
    assert (len(one.asked), len(two.asked)) == (1, 0)
    one.down = True
    for _ in range(3):
        await chain.batch([CALL], deadline=1)
    assert (len(one.asked), len(two.asked)) == (2, 3), "a node that failed is asked last for a while"
    one.down = False
    await trio.sleep(10)
    await chain.batch([CALL], deadline=1)
    assert len(one.asked) == 3, "and first again afterwards"
    assert health.is_up("gateway")


async def test_all_down_is_one_error_that_names_each(autojump_clock: trio.testing.MockClock) -> None:
    one, two = ScriptedNode("one"), ScriptedNode("two")
    one.down = two.down = True
    chain, health = _chain(one, two, name="gateway")
    with pytest.raises(DependencyDown) as down:
        await chain.batch([CALL], deadline=1)
    assert str(down.value) == "gateway: gateway node one: no answer; gateway node two: no answer"
    assert not health.is_up("gateway")
    alone, _ = _chain(one)
    with pytest.raises(DependencyDown, match=r"^gateway node one: no answer$"):
        await alone.batch([CALL], deadline=1)


async def test_a_hanging_node_leaves_time_for_the_next(autojump_clock: trio.testing.MockClock) -> None:
    one, two = ScriptedNode("one"), ScriptedNode("two")
    one.hangs = True
    chain, _ = _chain(one, two)
    started = trio.current_time()
    await chain.batch([CALL], deadline=10)
    assert trio.current_time() - started <= 5


async def test_preferred_and_avoided_nodes(autojump_clock: trio.testing.MockClock) -> None:
    nodes = [ScriptedNode(name) for name in ("one", "two", "three")]
    chain, _ = _chain(*nodes)
    names = [node.name for node in nodes]

    def order(**wish: str) -> list[str]:
        return [names[index] for index in chain.order(**wish)]

    assert order() == names
    assert order(prefer="three") == ["three", "one", "two"]
    assert order(avoid="one") == ["two", "three", "one"]
    assert order(prefer="nobody", avoid="nobody") == names
    nodes[1].down = True
    await chain.batch([CALL], deadline=1, prefer="two")
    assert order(avoid="one") == ["three", "two", "one"], "the avoided one even after one that is down"
    nodes[0].down = nodes[2].down = False
    await chain.batch([CALL], deadline=1, avoid="three")


def test_nodes_of_one_chain_only() -> None:
    with pytest.raises(ValueError, match="one chain id"):
        _chain(ScriptedNode("one"), ScriptedNode("two", chain_id=2))
    with pytest.raises(ValueError, match="one chain id"):
        _chain()


# ---------------------------------------------------------------------------------------------------------------------


async def test_views_are_one_batch_of_eth_calls() -> None:
    node = ScriptedNode("one", [RpcAnswer("0x01"), RpcAnswer(None, RpcError(3, "execution reverted", "0x08c379a0"))])
    chain, _ = _chain(node)
    answers = await chain.call_views([(CONTRACT, b"\1\2"), (CONTRACT, b"")], deadline=1, block=17)
    assert answers == [RpcAnswer(b"\1"), RpcAnswer(None, RpcError(3, "execution reverted", "0x08c379a0"))]
    assert node.asked[0][0] == RpcCall("eth_call", ({"to": "0x" + "0c" * 20, "data": "0x0102"}, "0x11"))


@pytest.mark.parametrize("nonsense", ["0x0", "zz", None, 7, {}])
async def test_a_node_that_answers_nonsense_is_passed_over(nonsense: object) -> None:
    chain, _ = _chain(ScriptedNode("one", nonsense), ScriptedNode("two", "0x02"))
    assert await chain.call_views([(CONTRACT, b"")], deadline=1) == [RpcAnswer(b"\2")]
    alone, _ = _chain(ScriptedNode("one", nonsense))
    with pytest.raises(DependencyDown, match="return data"):
        await alone.call_views([(CONTRACT, b"")], deadline=1)


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


async def test_typed_views() -> None:
    zero = bytes(20)
    known = Coprocessor(b"\1" * 20, b"\2" * 20, "http://bucket")
    node = ScriptedNode("one")
    chain, _ = _chain(node)

    node.result = [_hex(wire.IS_DECRYPTION_DONE.encode_return(done)) for done in (True, False)]
    assert list(await views.is_decryption_done(chain, CONTRACT, [5, 6], deadline=1)) == [True, False]

    node.result = [_hex(wire.GET_COPROCESSOR.encode_return(one)) for one in (known, Coprocessor(zero, zero, ""))]
    assert list(await views.coprocessors(chain, CONTRACT, [b"\1" * 20, b"\3" * 20], deadline=1)) == [known, None]

    party = KmsNode(b"\1" * 20, b"\2" * 20, "ip", "url")
    node.result = _hex(wire.GET_KMS_NODE.encode_return(party))
    assert await views.kms_node(chain, CONTRACT, b"\1" * 20, deadline=1) == party
    node.result = _hex(wire.GET_KMS_NODE.encode_return(KmsNode(zero, zero, "", "")))
    assert await views.kms_node(chain, CONTRACT, b"\1" * 20, deadline=1) is None

    materials = KeyMaterials(("u",), (KeyDigest(0, b"\1" * 32), KeyDigest(1, b"\2" * 32)))
    reverted = RpcAnswer(None, RpcError(3, "execution reverted", "0x84de1331"))
    node.result = [_hex(wire.GET_KEY_MATERIALS.encode_return(materials)), reverted]
    assert list(await views.key_materials(chain, CONTRACT, [1, 2], deadline=1)) == [materials, None]

    domain = Eip712DomainView(b"\x0f", "Decryption", "1", 54321, CONTRACT, bytes(32), ())
    node.result = _hex(wire.EIP712_DOMAIN.encode_return(domain))
    assert await views.eip712_domain(chain, CONTRACT, deadline=1) == domain


async def test_views_of_what_is_no_such_contract() -> None:
    node = ScriptedNode("one", "0x")
    chain, _ = _chain(node)
    with pytest.raises(ViewRefused, match="is there a contract at this address"):
        await views.is_decryption_done(chain, CONTRACT, [1], deadline=1)
    node.result = RpcAnswer(None, RpcError(3, "execution reverted", "0x"))
    with pytest.raises(ViewRefused, match=r"isDecryptionDone of 0x.* reverted"):
        await views.is_decryption_done(chain, CONTRACT, [1], deadline=1)


async def test_a_call_that_the_node_could_not_do_blames_no_contract() -> None:
    chain, _ = _chain(ScriptedNode("one", RpcAnswer(None, RpcError(-32005, "limit exceeded"))), name="gateway")
    for ask in (
        views.is_decryption_done(chain, CONTRACT, [1], deadline=1),
        views.key_materials(chain, CONTRACT, [1], deadline=1),
    ):
        with pytest.raises(DependencyDown, match=r"^gateway: .* failed with code -32005$"):
            await ask


@pytest.mark.parametrize(
    ("error", "reverted"),
    [
        (RpcError(3, "execution reverted", "0x"), True),
        (RpcError(-32000, "execution reverted", "0x84de1331"), True),
        (RpcError(-32015, "VM execution error", "0x84de1331"), True),
        (RpcError(-32000, "header not found"), False),
        (RpcError(-32603, "internal error", {"x": 1}), False),
    ],
)
def test_what_is_a_revert(error: RpcError, reverted: bool) -> None:
    assert views.is_revert(RpcAnswer(None, error)) is reverted
    assert not views.is_revert(RpcAnswer("0x"))


def _refusal(code: int = -32000, data: str | None = None) -> RpcAnswer:
    return RpcAnswer(None, RpcError(code, "not well", data))


@pytest.mark.guarantee("EV4")
async def test_a_node_that_answers_nothing_but_errors_is_passed_over() -> None:
    sick, well = ScriptedNode("sick", _refusal()), ScriptedNode("well")
    chain, _ = _chain(sick, well)
    for _ in range(3):
        assert await chain.batch([CALL, CALL], deadline=1) == [RpcAnswer("0x1")] * 2
    assert len(sick.asked) == 1  # and asked last for a while


async def test_where_all_answer_with_errors_it_may_be_the_question(autojump_clock: trio.testing.MockClock) -> None:
    first, second = ScriptedNode("first", _refusal(-1)), ScriptedNode("second", _refusal(-2))
    chain, _ = _chain(first, second)
    for _ in range(2):
        assert await chain.batch([CALL], deadline=1) == [_refusal(-1)]
    second.down = True
    assert await chain.batch([CALL], deadline=1) == [_refusal(-1)]
    alone, _ = _chain(ScriptedNode("alone", _refusal()))
    assert await alone.batch([CALL], deadline=1) == [_refusal()]


@pytest.mark.parametrize("answers", [[_refusal(3)], [_refusal(-32000, "0x08c379a0")], [_refusal(), RpcAnswer("0x1")]])
async def test_a_revert_or_one_bad_question_is_an_answer(answers: list[RpcAnswer]) -> None:
    first, second = ScriptedNode("first", answers), ScriptedNode("second")
    chain, _ = _chain(first, second)
    assert await chain.batch([CALL] * len(answers), deadline=1) == answers
    assert second.asked == []
