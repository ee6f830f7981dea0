"""What becomes of a request that is heard of again under an id that is known (decisions.md 9 and 12). Pure."""

from enum import Enum

import attrs

from kmsd.ports import Arrival


class Again(Enum):
    """What to do with the row that is there."""

    NOTHING = "nothing"  # the same request in the same log
    CONFIRM = "confirm"  # a second node shows the same log: the ceremony may go
    RELOCATE = "relocate"  # the same request in another block
    RELOCATE_UNCONFIRMED = "relocate, wait again"  # the same, which one node alone shows so far
    REPLACE = "replace"  # another request, and the Core has not seen the old one
    REPLACE_UNCONFIRMED = "replace, wait"  # the same, which one node alone shows so far
    CONFLICT = "conflict"  # another request, and the Core has the old one, or two nodes stand by the old one


@attrs.frozen
class Stored:
    """What the row says. `content_hash` is computed from it where the Rust connector stored none."""

    status: str
    already_sent: bool
    content_hash: bytes
    tx_hash: bytes | None
    block_hash: bytes | None
    log_index: int | None
    reporting_node: str | None
    unconfirmed: bool
    orphaned: bool

    @property
    def is_with_core(self) -> bool:
        """True when the Core has it, or it is done: it can no longer be replaced."""
        return self.already_sent or self.status == "completed"


def hear_again(stored: Stored, arrival: Arrival, node: str, *, needs_confirmation: bool, witnesses: int) -> Again:
    """What `node`'s report means. `witnesses`: nodes that show this very log by now; `needs_confirmation`: a ceremony
    of which two must."""
    confirmed = witnesses >= 2 or not needs_confirmation
    if stored.content_hash != arrival.content_hash:
        if stored.is_with_core or not (confirmed or stored.unconfirmed):
            return Again.CONFLICT
        return Again.REPLACE if confirmed else Again.REPLACE_UNCONFIRMED
    if (stored.block_hash, stored.log_index) == (arrival.block_hash, arrival.log_index):
        return Again.CONFIRM if stored.unconfirmed and confirmed else Again.NOTHING
    if needs_confirmation and confirmed:
        return Again.RELOCATE
    if stored.block_hash is None or stored.orphaned or stored.reporting_node == node:
        # The one who said so first has read another history since; or nobody knew where it was.
        return Again.RELOCATE if confirmed or stored.is_with_core else Again.RELOCATE_UNCONFIRMED
    return Again.NOTHING
