"""Named places where a test may kill the daemon: `KMSD_FAILPOINT=name[:n]` (decisions.md 26).

The n-th passage (default the first) of the named place ends the process with SIGKILL, as a power failure would. When
the variable is absent, `failpoint` is a function that does nothing. A name that is no place ends the start: a test that
waits for such a death would prove nothing.
"""

import os
import signal
import sys
from collections.abc import Mapping

PLACES: Mapping[str, str] = {
    "listener.before_record": "a range of blocks is read and proven; nothing of it is stored",
    "store.range_written": "events and cursor are written; the transaction is open",
    "listener.after_record": "events and cursor are committed; nobody was woken, fresh rows are in nobody's hand",
    "store.rewind_written": "a cursor is moved back before a fork; the transaction is open",
    "worker.before_send": "a decryption is checked and fetched; the Core was not asked",
    "worker.after_send": "the Core has the decryption; the database does not know",
    "worker.before_sent": "about to be written: the Core has these requests",
    "worker.after_sent": "written: the Core has these requests",
    "worker.after_result": "a decryption's result is verified, in memory only",
    "worker.before_ceremony_send": "a ceremony's turn has come; the Core was not asked",
    "worker.after_ceremony_send": "the Core has the ceremony; the database does not know",
    "worker.after_ceremony_result": "a ceremony's result is verified, in memory only",
    "worker.before_answered": "about to be written: responses and completed requests",
    "worker.after_answered": "written: responses and completed requests; the sender was not woken",
    "worker.before_finished": "about to be written: requests completed without a response",
    "worker.after_finished": "written: requests completed without a response",
    "worker.before_try_again": "about to be written: requests to be tried again later",
    "worker.after_try_again": "written: requests to be tried again later",
    "worker.before_failed": "about to be written: requests refused for good",
    "worker.after_failed": "written: requests refused for good",
    "sender.signed": "transactions are signed, in memory only",
    "sender.journaled": "transactions are in the journal; none was broadcast",
    "sender.broadcast": "transactions are with a node; its answer was not read",
    "sender.resolved": "the fate of transactions is known, in memory only",
    "sender.settled": "the fate of transactions and of their responses is written",
}
"""Every place, in the order of a request's life, and what the daemon has done there. The crash suite kills at each."""


def _armed(setting: str) -> tuple[str, int]:
    name, _, count = setting.partition(":")
    if name and name not in PLACES:
        sys.exit(f"KMSD_FAILPOINT: there is no place {name}; there are {', '.join(PLACES)}")
    return name, int(count or 1)


_name, _left = _armed(os.environ.get("KMSD_FAILPOINT", ""))


def _failpoint(name: str) -> None:
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _nothing(name: str) -> None:
    return None


failpoint = _failpoint if _name else _nothing
"""Marks a place between two effects; call it with the place's name."""
