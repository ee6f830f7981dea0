"""The states of a key's life after NIST SP 800-57 (part 1, section 7), as one table: what each allows, where it leads.

A key or CRS gets from pre-activation to active by the chain alone (events ActivateKey and ActivateCrs, or the contract
giving its materials). Everything else an operator decides, with a reason, and the chain never changes it back.
"""

from collections.abc import Mapping
from enum import StrEnum

import attrs

from kmsd.ports import KeyAllowance


class KeyState(StrEnum):
    """States by the words under which they are stored."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


@attrs.frozen
class StateRule:
    """`allows`, and in words; `leads_to` are the states that an operator may set next."""

    allows: KeyAllowance
    words: str
    leads_to: tuple[KeyState, ...]


S = KeyState
STATES: Mapping[KeyState, StateRule] = {
    S.PRE_ACTIVATION: StateRule(
        KeyAllowance.NOTHING, "nothing allowed before its activation on chain", (S.COMPROMISED, S.DESTROYED)
    ),
    S.ACTIVE: StateRule(KeyAllowance.ALL, "everything allowed", (S.SUSPENDED, S.DEACTIVATED, S.COMPROMISED)),
    S.SUSPENDED: StateRule(
        KeyAllowance.DECRYPTION_ONLY, "decryption only, for a while", (S.ACTIVE, S.DEACTIVATED, S.COMPROMISED)
    ),
    S.DEACTIVATED: StateRule(KeyAllowance.DECRYPTION_ONLY, "decryption only", (S.COMPROMISED, S.DESTROYED)),
    S.COMPROMISED: StateRule(KeyAllowance.DECRYPTION_ONLY, "decryption only", (S.DESTROYED,)),
    S.DESTROYED: StateRule(KeyAllowance.NOTHING, "nothing allowed, for ever", ()),
}
"""Every state with its rule. To come back from deactivated, compromised or destroyed is in no rule of SP 800-57."""

SETTABLE = tuple(state for state in KeyState if any(state in rule.leads_to for rule in STATES.values()))
"""States that an operator may set."""


def objection(before: KeyState, after: KeyState) -> str | None:
    """Why an operator may not set `after` on a key in state `before`; None when it may be set."""
    if after is before:
        return f"it is {before} already"
    if after in STATES[before].leads_to:
        return None
    if after is KeyState.ACTIVE and before is KeyState.PRE_ACTIVATION:
        return "activation follows the chain: it becomes active with ActivateKey or ActivateCrs"
    allowed = ", ".join(STATES[before].leads_to) or "nowhere: that state is never left"
    return f"it is {before}, from where SP 800-57 leads to {allowed}"
