"""Which function serves which kind: the part of the table of operations that is code.

It stands apart from `table.py` because the flows lean on rooms that are themselves written over that table.
"""

from collections.abc import Awaitable, Callable

from kmsd.operations.ceremonies import serve_ceremony
from kmsd.operations.decryption import serve_decryption
from kmsd.operations.kinds import Kind
from kmsd.operations.outcomes import Outcome
from kmsd.operations.table import OPERATIONS, Family
from kmsd.operations.tools import Tools
from kmsd.ports import Claimed

Flow = Callable[[Claimed, Tools], Awaitable[Outcome]]

_BY_FAMILY: dict[Family, Flow] = {Family.DECRYPTION: serve_decryption, Family.CEREMONY: serve_ceremony}

FLOWS: dict[Kind, Flow] = {kind: _BY_FAMILY[operation.family] for kind, operation in OPERATIONS.items()}
"""The flow of each kind."""
