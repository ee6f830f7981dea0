"""The simulated world implements every port: whoever adds a verb to a port adds it here too."""

import pytest

from kmsd import ports

from .world.core import CorePort
from .world.nodes import HostPort, NodePort
from .world.store_sender import SimLane, SimStore
from .world.supplies import BlobsPort, WalletPort, WorldEntropy, WorldTime

PAIRS = (
    (ports.Store, SimStore),
    (ports.Lane, SimLane),
    (ports.Core, CorePort),
    (ports.Blobs, BlobsPort),
    (ports.Wallet, WalletPort),
    (ports.Time, WorldTime),
    (ports.Entropy, WorldEntropy),
)


@pytest.mark.parametrize(("port", "twin"), PAIRS, ids=lambda one: one.__name__)
def test_every_verb_is_there(port: type, twin: type) -> None:
    verbs = {name for name in vars(port) if not name.startswith("_")}
    missing = sorted(name for name in verbs if not hasattr(twin, name) and name not in SET_BY_INIT)
    assert not missing, f"{twin.__name__} lacks {missing}"


SET_BY_INIT = {"shards", "is_remote", "name", "chain_id"}
"""Attributes that instances have."""


def test_nodes() -> None:
    for twin in (NodePort, HostPort):
        assert {"batch", "heads"} <= set(dir(twin))
