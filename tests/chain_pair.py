"""The two chains of a test."""

import attrs

from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.contracts import Deployment


@attrs.frozen
class Chains:
    """A Gateway chain and a host chain with deployed doubles. Each transaction makes a block at once."""

    gateway: Anvil
    host: Anvil
    deployment: Deployment
