"""`kmsd replay-quarantine`: logs and rows that could not be used, looked at again."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kmsd.commands.options import EXIT_NO, common, confirm, print_json, refuse, say, settings_for, yes_option
from kmsd.commands.progress import progress
from kmsd.ports import Arrival, ChainFact, Log

if TYPE_CHECKING:
    from kmsd.store.operator import Changed, View
    from kmsd.store.postgres import PostgresStore

PAGE = 1_000
"""Entries read at once."""


@click.command("replay-quarantine")
@click.argument("numbers", nargs=-1, type=click.IntRange(1), metavar="NUMBER...")
@click.option("--show", "only_show", is_flag=True, help="Only list what is in quarantine.")
@click.option("--discard", metavar="REASON", help="Close the named entries instead; they stay readable.")
@yes_option
@common
def replay_quarantine(
    config: str | None, as_json: bool, numbers: tuple[int, ...], only_show: bool, discard: str | None, yes: bool
) -> None:
    """Decode quarantined logs again (all, or those of the given numbers), e.g. after an upgrade; rows go back.

    What still cannot be decoded stays. Exit 1 when something stayed.
    """
    from kmsd.commands.database import answer, operator_name

    settings = settings_for(config, as_json, ("database_url",)).settings
    if discard is not None and not (numbers and discard.strip()):
        raise click.UsageError("--discard needs a reason and the numbers of the entries")
    entries = answer(settings, _entries, as_json)
    if numbers:
        if missing := set(numbers) - {entry["number"] for entry in entries}:
            refuse(f"not in quarantine: {', '.join(map(str, sorted(missing)))}", as_json)
        entries = [entry for entry in entries if entry["number"] in numbers]
    if only_show or not entries:
        _show(entries, as_json)
        return
    confirm(f"{'Discard' if discard else 'Replay'} {len(entries)} entries of the quarantine?", yes)
    by = operator_name()

    async def work(store: "PostgresStore") -> list["Changed"]:
        changes: list[Changed] = []
        with progress("entries", len(entries)) as step:
            for entry in entries:
                if discard is not None:
                    changes.append(await store.discard_quarantined(entry["number"], discard, by=by))
                else:
                    changes.append(await _replay(store, entry, by))
                step()
        return changes

    changes = answer(settings, work, as_json)
    results = [
        {"number": entry["number"], "done": change.done, "words": change.words}
        for entry, change in zip(entries, changes, strict=True)
    ]
    if as_json:
        print_json({"ok": all(change.done for change in changes), "results": results})
    else:
        for one in results:
            say(f"{one['number']}: {one['words']}")
    sys.exit(0 if all(change.done for change in changes) else EXIT_NO)


async def _entries(store: "PostgresStore") -> list["View"]:
    found: list[View] = []
    while True:
        page = await store.quarantined(after=found[-1]["number"] if found else 0, limit=PAGE)
        found += page
        if len(page) < PAGE:
            return found


async def _replay(store: "PostgresStore", entry: "View", by: str) -> "Changed":
    from kmsd.clock import SystemEntropy, SystemTime
    from kmsd.listening.decoding import decode
    from kmsd.store.operator import Changed

    found: Arrival | ChainFact | None = None
    if entry["source"] != "row":
        decoded = await decode([log_of(entry)], entry["node"] or "", SystemTime(), SystemEntropy())
        if decoded.quarantined:
            return Changed(False, f"still not decodable: {decoded.quarantined[0].reason}")
        found = decoded.arrivals[0] if decoded.arrivals else decoded.facts[0]
    return await store.replay_quarantined(entry["number"], found, by=by)


def log_of(entry: "View") -> Log:
    """The raw log that an entry keeps."""

    def raw(name: str) -> bytes:
        return bytes.fromhex(str(entry[name]).removeprefix("0x"))

    return Log(
        address=raw("address"),
        topics=tuple(bytes.fromhex(str(topic).removeprefix("0x")) for topic in entry["topics"] or ()),
        data=raw("data"),
        block_number=entry["block_number"],
        block_hash=raw("block_hash"),
        tx_hash=raw("tx_hash"),
        log_index=entry["log_index"],
    )


def _show(entries: Sequence["View"], as_json: bool) -> None:
    from kmsd.commands.show import instant

    if as_json:
        print_json({"ok": True, "entries": list(entries)})
        return
    for entry in entries:
        where = f"block {entry['block_number']} log {entry['log_index']} of {entry['node']}"
        what = where if entry["source"] != "row" else f"{entry['kind']} 0x{entry['id']}"
        say(f"{entry['number']}: {entry['source']}, {what}, {instant(entry['created_at'])}: {entry['reason']}")
    if not entries:
        say("nothing is in quarantine")
