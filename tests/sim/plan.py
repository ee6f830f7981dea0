"""What happens to a world: plain data, drawn from a seed, that can be shrunk and written down."""

import json
import random
from typing import Any

import attrs

from kmsd.operations.kinds import Kind

LAST_ASK, LAST_FAULT = 12.0, 22.0
"""Virtual seconds within which requests come and faults begin."""


@attrs.frozen
class Ask:
    """A request of the Gateway: when it is made, of what kind, how it is (`parties.Content.variant`), and how many
    seconds later the committee agrees without us (0: only with our answer)."""

    at: float
    kind: str
    number: int
    variant: str = "good"
    others: float = 0.0


@attrs.frozen
class Fault:
    """Something goes wrong at an instant and, if it `lasts`, is over after so many seconds. `target` numbers a daemon,
    node, shard or bucket; `amount` means what the fault's row in `faults.FAULTS` says."""

    what: str
    at: float
    lasts: float = 0.0
    target: int = 0
    amount: float = 0.0


@attrs.frozen
class Plan:
    """One world from its beginning to its end."""

    seed: int
    nodes: int = 1
    daemons: int = 1
    shards: int = 1
    nitro: bool = False
    pushes: bool = False
    remote_wallet: bool = False
    confirmations: int = 0
    block_interval: float = 1.0
    asks: tuple[Ask, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def healed_at(self) -> float:
        """When the last fault is over and the last request is made."""
        ends = [fault.at + fault.lasts for fault in self.faults] + [ask.at + ask.others for ask in self.asks]
        return max(ends, default=0.0)

    def dumps(self) -> str:
        """As one line of JSON."""
        return json.dumps(attrs.asdict(self), separators=(",", ":"))


def loads(text: str) -> Plan:
    """A plan from its JSON."""
    fields: dict[str, Any] = json.loads(text)
    fields["asks"] = tuple(Ask(**ask) for ask in fields["asks"])
    fields["faults"] = tuple(Fault(**fault) for fault in fields["faults"])
    return Plan(**fields)


SPANS: dict[str, tuple[float, float]] = {
    "db.down": (1, 25),
    "db.held": (1, 25),
    "db.lose": (2, 15),
    "db.fail": (2, 15),
    "db.slow": (2, 15),
    "db.cut": (0, 0),
    "node.down": (2, 12),
    "node.hang": (2, 12),
    "node.lose": (2, 12),
    "node.twice": (5, 12),
    "node.fail": (2, 12),
    "node.slow": (2, 12),
    "node.lag": (3, 12),
    "node.lies": (3, 12),
    "node.fork": (3, 12),
    "node.errs": (2, 12),
    "node.garbles": (2, 12),
    "node.omits": (5, 12),
    "node.heads": (0, 0),
    "chain.reorg": (0, 0),
    "chain.later": (0, 0),
    "chain.evict": (0, 0),
    "chain.halt": (3, 12),
    "chain.fees": (5, 30),
    "chain.funds": (5, 12),
    "chain.registration": (5, 12),
    "chain.costlier": (0, 0),
    "host.down": (2, 12),
    "host.hang": (2, 12),
    "host.fail": (2, 12),
    "core.down": (2, 12),
    "core.hang": (2, 12),
    "core.lose": (2, 12),
    "core.twice": (2, 12),
    "core.restart": (0, 0),
    "core.busy": (2, 12),
    "core.full": (2, 12),
    "core.unusable": (2, 12),
    "core.away": (2, 12),
    "core.internal": (0, 0),
    "core.spoils": (0, 0),
    "core.slow": (5, 12),
    "core.keyless": (5, 12),
    "bucket.down": (2, 12),
    "bucket.hang": (2, 12),
    "bucket.wrong": (2, 12),
    "bucket.lacks": (2, 12),
    "wallet.down": (2, 12),
    "wallet.fail": (2, 12),
    "daemon.kill": (0, 12),
    "daemon.power": (0, 5),
    "daemon.stop": (0, 5),
}
"""Every fault with the least and the most seconds that it lasts; 0 to 0 for what happens at an instant."""
OFTEN = ("daemon.power", "daemon.kill", "chain.reorg", "db.lose", "node.lose", "db.cut", "core.lose")


KEYLESS = "core.keyless"


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    chance = random.Random(f"plan {seed}")
    nodes = chance.choice((1, 2, 2))
    daemons = chance.choice((1, 1, 1, 2))
    asks = _asks(chance)
    names = chance.sample(sorted(SPANS), k=chance.choice((0, 2, 4, 6)))
    names += [chance.choice(OFTEN) for _ in range(chance.choice((0, 1, 2, 4)))]
    if KEYLESS in names:  # a Core that lacks the key and cannot say so burns ids, which only its restart mends
        names = [name for name in names if name == KEYLESS or not name.startswith("core.")]
    return Plan(
        seed=seed,
        nodes=nodes,
        daemons=daemons,
        shards=chance.choice((1, 1, 2)),
        nitro=chance.random() < 0.3,
        pushes=chance.random() < 0.4,
        remote_wallet=chance.random() < 0.2,
        confirmations=chance.choice((0, 0, 0, 2)),
        block_interval=chance.choice((0.5, 1.0, 2.0, 2.0, 4.0)),
        asks=asks,
        faults=tuple(sorted((_fault(chance, name) for name in names), key=lambda fault: fault.at)),
    )


def _asks(chance: random.Random) -> tuple[Ask, ...]:
    asks = []
    burst = chance.random() * LAST_ASK
    for number in range(chance.choice((2, 4, 8, 12))):
        kind = chance.choice((Kind.PUBLIC_DECRYPTION, Kind.USER_DECRYPTION))
        variants = (*("good",) * 16, "late", "late", "denied")
        variants += ("delegated",) * 2 if kind is Kind.USER_DECRYPTION else ("garbage",) * 3
        at = burst if chance.random() < 0.5 else chance.random() * LAST_ASK
        others = chance.choice((0.0, 0.0, 4.0, 20.0)) if kind is Kind.PUBLIC_DECRYPTION else 0.0
        asks.append(Ask(round(at, 2), kind.value, number, chance.choice(variants), others))
    if chance.random() < 0.5:
        asks.append(Ask(round(chance.random() * 5, 2), Kind.PRSS_INIT.value, 100))
    for number in range(chance.choice((0, 0, 1, 2))):
        at = round(chance.random() * LAST_ASK, 2)
        asks.append(Ask(at, Kind.PREP_KEYGEN.value, 200 + number))
        asks.append(Ask(round(at + chance.choice((0.0, 1.0, 10.0)), 2), Kind.KEYGEN.value, 200 + number))
    for number in range(chance.choice((0, 0, 1, 2))):
        asks.append(Ask(round(chance.random() * LAST_ASK, 2), Kind.CRSGEN.value, 300 + number))
    for number in range(chance.choice((0, 0, 1))):
        asks.append(Ask(round(chance.random() * LAST_ASK, 2), Kind.KEY_RESHARE.value, 400 + number))
    return tuple(sorted(asks, key=lambda ask: ask.at))


def _fault(chance: random.Random, name: str) -> Fault:
    least, most = SPANS[name]
    return Fault(
        what=name,
        at=0.0 if name == KEYLESS else round(chance.random() * LAST_FAULT, 2),
        lasts=round(least + (most - least) * chance.random(), 2),
        target=chance.randrange(2),
        amount=round(chance.random(), 3),
    )
