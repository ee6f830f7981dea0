"""What each fault of a plan does to a world: one row each."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kmsd.ports import CoreMethod, StatusCode
from kmsd.wire import ids

from .plan import Fault
from .world import parties as p
from .world.lives import Trouble
from .world.store_sender import cut_connections

if TYPE_CHECKING:
    from .simulation import World

Begin = Callable[["World", Fault, str], Callable[[], None] | None]
"""Begins a fault under a key of its own; gives what ends it."""

SENDS = [CoreMethod.PUBLIC_DECRYPT, CoreMethod.USER_DECRYPT]
ALL_SENDS = [*SENDS, CoreMethod.KEY_GEN_PREPROC, CoreMethod.KEY_GEN, CoreMethod.CRS_GEN, CoreMethod.INITIATE_RESHARING]


def _link(place: str, **trouble: Any) -> Begin:
    """Trouble on the way to one dependency; True for a chance means the fault's amount."""

    def begin(world: "World", fault: Fault, key: str) -> Callable[[], None]:
        values = {name: (0.2 + 0.7 * fault.amount if value is None else value) for name, value in trouble.items()}
        links = world.links(place, fault.target)
        for link in links:
            link.begin(key, Trouble(**values))

        def end() -> None:
            for link in links:
                link.end(key)

        return end

    return begin


def _set(place: str, name: str, value: Callable[[Fault], Any], rest: Any) -> Begin:
    """An attribute of something is another for a while."""

    def begin(world: "World", fault: Fault, key: str) -> Callable[[], None]:
        thing = world.thing(place, fault.target)
        setattr(thing, name, value(fault))
        return lambda: setattr(thing, name, rest)

    return begin


def _core_says(status: StatusCode, methods: list[CoreMethod]) -> Begin:
    def begin(world: "World", fault: Fault, key: str) -> Callable[[], None]:
        core = world.thing("core", fault.target)
        core.statuses[key] = dict.fromkeys(methods, status)
        return lambda: core.statuses.pop(key, None)

    return begin


def _fork(world: "World", fault: Fault, key: str) -> Callable[[], None]:
    """The node stays on a history of its own while the chain goes another way."""
    node = world.thing("node", fault.target)
    node.fork = list(world.chain.blocks)
    world.reorganise(1 + int(fault.amount * 3), "again" if fault.amount < 0.5 else "swap", forget=False)

    def end() -> None:
        node.fork = None

    return end


def _reorganise(world: "World", fault: Fault, key: str) -> None:
    fates = ("again", "swap", "gone", "again")
    world.reorganise(1 + int(fault.amount * 5), fates[int(fault.amount * 997) % 4], forget=fault.target == 1)


def _later(world: "World", fault: Fault, key: str) -> None:
    """A reorganisation whose requests come again some blocks later."""
    world.reorganise(1 + int(fault.amount * 5), "later", forget=fault.target == 1)


def _omit(world: "World", fault: Fault, key: str) -> Callable[[], None] | None:
    """With a second node, one of them gives no logs of some decryptions, ever."""
    if world.plan.nodes < 2:
        return None
    node = world.thing("node", fault.target)
    others = [one.tx_hash for one in world.contents if one.kind.value.endswith("decryption")]
    node.omits |= {"0x" + tx_hash.hex() for tx_hash in others[fault.target :: 2]}
    return None


def _restart_core(world: "World", fault: Fault, key: str) -> None:
    world.thing("core", fault.target).restart()


def _keyless(world: "World", fault: Fault, key: str) -> Callable[[], None]:
    """A Core that does not hold the key yet."""
    core, name = world.thing("core", fault.target), ids.to_core(p.OLD_KEY)
    core.keys.discard(name)
    return lambda: core.keys.add(name)


def _hurt(name: str) -> Begin:
    def begin(world: "World", fault: Fault, key: str) -> None:
        core = world.thing("core", fault.target)
        setattr(core, name, getattr(core, name) + 1 + int(fault.amount * 2))

    return begin


def _evict(world: "World", fault: Fault, key: str) -> None:
    world.chain.pool.drop(None)


def _fees(world: "World", fault: Fault, key: str) -> Callable[[], None]:
    world.chain.base_fee = int(100_000_000 * (2 + 6 * fault.amount))

    def end() -> None:
        world.chain.base_fee = 100_000_000

    return end


def _funds(world: "World", fault: Fault, key: str) -> Callable[[], None]:
    world.chain.balance = 0

    def end() -> None:
        world.chain.balance = 10**20

    return end


def _registration(world: "World", fault: Fault, key: str) -> Callable[[], None]:
    world.chain.registry.registered = False

    def end() -> None:
        world.chain.registry.registered = True

    return end


def _costlier(world: "World", fault: Fault, key: str) -> None:
    world.chain.registry.factor = 2.0 + 2.0 * fault.amount


def _cut(world: "World", fault: Fault, key: str) -> None:
    cut_connections(world.database, world.wakes)


def _kill(world: "World", fault: Fault, key: str) -> None:
    world.kill(fault.target, fault.lasts * (5.0 if world.plan.daemons > 1 else 1.0))


def _power(world: "World", fault: Fault, key: str) -> None:
    world.fail_power(fault.target, 1 + int(fault.amount * 40), fault.amount * 1000 % 1 < 0.5, fault.lasts)


def _stop(world: "World", fault: Fault, key: str) -> None:
    world.stop(fault.target, fault.lasts)


def _cut_heads(world: "World", fault: Fault, key: str) -> None:
    world.thing("node", fault.target).cut_subscriptions()


FAULTS: dict[str, Begin] = {
    "db.down": _link("db", down=True),
    "db.held": _link("db", held=True),
    "db.lose": _link("db", lose=None),
    "db.fail": _link("db", fail=None),
    "db.slow": _link("db", slow=0.5),
    "db.cut": _cut,
    "node.down": _link("node", down=True),
    "node.hang": _link("node", hang=True),
    "node.lose": _link("node", lose=None),
    "node.twice": _link("node", twice=None),
    "node.fail": _link("node", fail=None),
    "node.slow": _link("node", slow=1.0),
    "node.lag": _set("node", "lag", lambda fault: 1 + int(fault.amount * 4), 0),
    "node.lies": _set("node", "lying_lag", lambda fault: 1, 0),
    "node.fork": _fork,
    "node.errs": _set("node", "errs", lambda fault: 0.1 + 0.5 * fault.amount, 0.0),
    "node.garbles": _set("node", "garbles", lambda fault: 0.1 + 0.3 * fault.amount, 0.0),
    "node.omits": _omit,
    "node.heads": _cut_heads,
    "chain.reorg": _reorganise,
    "chain.later": _later,
    "chain.evict": _evict,
    "chain.halt": _set("chain", "halted", lambda fault: True, False),
    "chain.fees": _fees,
    "chain.funds": _funds,
    "chain.registration": _registration,
    "chain.costlier": _costlier,
    "host.down": _link("host", down=True),
    "host.hang": _link("host", hang=True),
    "host.fail": _link("host", fail=None),
    "core.down": _link("core", down=True),
    "core.hang": _link("core", hang=True),
    "core.lose": _link("core", lose=None),
    "core.twice": _link("core", twice=None),
    "core.restart": _restart_core,
    "core.busy": _core_says(StatusCode.RESOURCE_EXHAUSTED, [*ALL_SENDS]),
    "core.full": _core_says(StatusCode.ABORTED, SENDS),
    "core.unusable": _core_says(StatusCode.FAILED_PRECONDITION, [*ALL_SENDS, CoreMethod.INIT]),
    "core.away": _core_says(StatusCode.UNAVAILABLE, list(CoreMethod)),
    "core.internal": _hurt("internal"),
    "core.spoils": _hurt("spoils"),
    "core.slow": _set("core", "latency", lambda fault: 1.0 + 20.0 * fault.amount, 0.3),
    "core.keyless": _keyless,
    "bucket.down": _link("bucket", down=True),
    "bucket.hang": _link("bucket", hang=True),
    "bucket.wrong": _set("bucket", "wrong", lambda fault: True, False),
    "bucket.lacks": _set("bucket", "lacks", lambda fault: True, False),
    "wallet.down": _link("wallet", down=True),
    "wallet.fail": _link("wallet", fail=None),
    "daemon.kill": _kill,
    "daemon.power": _power,
    "daemon.stop": _stop,
}
"""How each fault begins, by name."""
