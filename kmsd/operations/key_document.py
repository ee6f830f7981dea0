"""`docs/keys.md`, made from the table of states."""

from kmsd.operations.key_states import STATES

ABOVE = """\
# Keys and CRSs

Made from `kmsd/operations/key_states.py` by `python -m kmsd.documents`; a test says when it is out of step.

kmsd keeps a registry of every key and CRS that it met: generated here, activated on chain, or named by you.

| command | |
|---|---|
| `kmsd keys` | all of them, with their states |
| `kmsd keys show key:1` | one: its preparation; when it was asked for, generated, activated and reshared; digests, \
storage URLs; every change of its state with who and why |
| `kmsd keys set key:1 suspended --reason "…"` | decide on one |

The status page shows them too. Running daemons obey within seconds, and write one line of the log for each change.

## States

Those of NIST SP 800-57 part 1.

| state | what is allowed under it | what you may set next |
|---|---|---|
"""

BELOW = """
**Activation follows the chain**: the events `ActivateKey` and `ActivateCrs`, or the contract itself giving the key's
materials. So a daemon that is new, or took over a database, refuses nothing. You cannot activate a key; you can lift a
suspension. What you set, the chain never changes.

**A key that nobody here knows** (generated before this party joined, say) is taken as active, with a warning in the
log: the Gateway itself asks for it.

**Reshares need an active key.** A reshare of a key in any other state waits.

**A decryption under a key that allows none** waits for another state within `decryption_time_budget`, or fails at
once, as `forbidden_key` in the configuration says (`wait` or `fail`). Either way `kmsd show` has the words: which
state, set by whom, why. `kmsd retry` tries it again.

**A step that the table does not have is refused**, also one step back: what was deactivated stays so. Nothing is done
to the Core's key material by any of this; destroy it there.
"""


def keys_markdown() -> str:
    """Text of `docs/keys.md`."""
    rows = [f"| {state} | {rule.words} | {', '.join(rule.leads_to) or '–'} |" for state, rule in STATES.items()]
    return ABOVE + "\n".join(rows) + "\n" + BELOW
