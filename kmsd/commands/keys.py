"""`kmsd keys`: the registry of keys and CRSs."""

import sys
from typing import TYPE_CHECKING

import click

from kmsd.commands.options import EXIT_NO, common, confirm, print_json, refuse, say, settings_for, yes_option
from kmsd.wire.errors import WireError
from kmsd.wire.ids import IdType, id_type, parse_id, short

if TYPE_CHECKING:
    from kmsd.store.operator import Changed, View
    from kmsd.store.postgres import PostgresStore

STATES = ("active", "suspended", "deactivated", "compromised", "destroyed")
"""What an operator may set (NIST SP 800-57)."""
EFFECTS = {
    "pre-activation": "nothing allowed before its activation on chain",
    "active": "everything allowed",
    "suspended": "decryption only",
    "deactivated": "decryption only",
    "compromised": "decryption only",
    "destroyed": "nothing allowed, for ever",
}


@click.command()
@click.argument("key", required=False, metavar="[ID]")
@click.option("--set", "state", type=click.Choice(STATES), help="Set the state of ID; the chain never changes it back.")
@click.option("--reason", help="Why; kept with the change.")
@yes_option
@common
def keys(config: str | None, as_json: bool, key: str | None, state: str | None, reason: str | None, yes: bool) -> None:
    """List keys and CRSs with their states, or the story of one, or set its state.

    States of NIST SP 800-57: pre-activation (nothing allowed), active, suspended, deactivated, compromised (each:
    decryption only), destroyed (nothing, for ever). Activation follows the chain; the others are decided here.
    """
    from kmsd.commands.database import answer, operator_name

    if state is not None and (key is None or not (reason or "").strip()):
        raise click.UsageError("--set needs an ID and a --reason")
    settings = settings_for(config, as_json, ("database_url",)).settings
    kind, object_id = _parse(key, as_json) if key is not None else (None, 0)
    if state is not None and kind is not None:
        changed_kind, words = kind, reason or ""
        confirm(f"Set {short(object_id)} to {state} ({EFFECTS[state]})?", yes)

        async def change(store: "PostgresStore") -> "Changed":
            return await store.set_key_state(changed_kind, object_id, state, words, by=operator_name())

        result = answer(settings, change, as_json)
        if as_json:
            print_json({"ok": result.done, "words": result.words})
        else:
            say(f"{short(object_id)}: {result.words}")
        sys.exit(0 if result.done else EXIT_NO)

    async def read(store: "PostgresStore") -> tuple[list["View"], list["View"]]:
        registry = [row for row in await store.key_registry() if key is None or row["id"] == f"{object_id:064x}"]
        return registry, list(await store.key_changes(kind, object_id)) if kind is not None else []

    registry, changes = answer(settings, read, as_json)
    if key is not None and not registry:
        refuse(f"no key or CRS {short(object_id)} is known here", as_json)
    if as_json:
        print_json({"ok": True, "keys": registry, "changes": changes})
        return
    _tell(registry, changes)


def _parse(text: str, as_json: bool) -> tuple[str, int]:
    try:
        object_id = parse_id(text)
    except WireError as error:
        refuse(str(error), as_json, 2)
    kind = {IdType.KEY: "key", IdType.CRS: "crs"}.get(id_type(object_id) or IdType.CONTEXT)
    if kind is None:
        refuse(f"{text} is the id of no key and no CRS: write key:1 or crs:1", as_json, 2)
    return kind, object_id


def _tell(registry: list["View"], changes: list["View"]) -> None:
    from kmsd.commands.show import instant

    for row in registry:
        who = f", set by {row['changed_by']}: {row['reason']}" if row["by_operator"] else ""
        say(f"{short(int(row['id'], 16)):<10} {row['state']} ({EFFECTS[row['state']]}){who}")
        for column, words in (
            ("prepared_at", "preparation heard"),
            ("requested_at", "generation heard"),
            ("generated_at", "generated here"),
            ("activated_at", "activated on chain"),
            ("reshared_at", "reshared"),
        ):
            if row.get(column) is not None:
                say(f"           {words:<18} {instant(row[column])}")
        for digest in row.get("digests") or ():
            say(f"           {digest['key_type']:<18} {digest['digest']}")
        if row.get("crs_digest"):
            say(f"           {'digest':<18} {row['crs_digest']}")
        for url in row.get("storage_urls") or ():
            say(f"           {'storage':<18} {url}")
    for change in changes:
        say(
            f"  {instant(change['changed_at'])}: {change['before'] or 'nothing'} → {change['after']} by "
            f"{change['changed_by']}: {change['reason']}"
        )
    if not registry:
        say("no keys and no CRSs are known yet")
