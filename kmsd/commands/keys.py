"""`kmsd keys`: the registry of keys and CRSs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kmsd.commands.options import EXIT_NO, Shared, common, confirm, print_json, refuse, say, settings_for, yes_option
from kmsd.operations.key_states import SETTABLE, STATES, KeyState
from kmsd.wire.errors import WireError
from kmsd.wire.ids import IdType, id_type, parse_id, short

if TYPE_CHECKING:
    from kmsd.store.operator import Changed, View
    from kmsd.store.postgres import PostgresStore

INSTANTS = {
    "prepared_at": "preparation heard",
    "requested_at": "generation heard",
    "generated_at": "generated here",
    "activated_at": "activated on chain",
    "reshared_at": "reshared",
    "changed_at": "last change of state",
}
"""Columns that are points of a key's life."""

TABLE = "\n".join(
    f"  {state.value:<15} {rule.words}; leads to {', '.join(rule.leads_to) or 'nothing'}"
    for state, rule in STATES.items()
)


@click.group(
    invoke_without_command=True,
    epilog=f"\b\nStates (NIST SP 800-57):\n{TABLE}\nActivation follows the chain; the others are decided here.",
)
@common
@click.pass_context
def keys(ctx: click.Context, config: str | None, as_json: bool) -> None:
    """Keys and CRSs with their states: all of them, the story of one, setting the state of one."""
    ctx.obj = Shared(config, as_json)
    if ctx.invoked_subcommand is None:
        registry = _read(config, as_json, None)[0]
        if as_json:
            print_json({"ok": True, "keys": registry})
            return
        for row in registry:
            say(_headline(row))
        if not registry:
            say("no keys and no CRSs are known yet")


@keys.command()
@click.argument("key", metavar="ID")
@common
def show(config: str | None, as_json: bool, key: str) -> None:
    """Tell everything that is known of one key or CRS: preparation, instants, digests, storage, changes of state."""
    which = _parse(key, as_json)
    registry, changes = _read(config, as_json, which)
    if not registry:
        refuse(f"no key or CRS {short(which[1])} is known here; `kmsd keys` lists which are", as_json)
    if as_json:
        print_json({"ok": True, "keys": registry, "changes": changes})
        return
    for row in registry:
        for line in _story(row):
            say(line)
    for change in changes:
        say(_change(change))


@keys.command("set")
@click.argument("key", metavar="ID")
@click.argument("state", type=click.Choice([state.value for state in SETTABLE]))
@click.option("--reason", required=True, help="Why; kept with the change.")
@yes_option
@common
def set_state(config: str | None, as_json: bool, key: str, state: str, reason: str, yes: bool) -> None:
    """Set the state of a key or CRS, with a reason. The chain never changes it back; running daemons obey in seconds.

    Exit 1 where SP 800-57 has no such step. What becomes of decryptions under a key that allows none is said by
    `forbidden_key` in the configuration.
    """
    from kmsd.commands.database import answer, operator_name

    if not reason.strip():
        raise click.UsageError("--reason must say something")
    kind, object_id = _parse(key, as_json)
    settings = settings_for(config, as_json, ("database_url",)).settings
    confirm(f"Set {short(object_id)} to {state} ({STATES[KeyState(state)].words})?", yes)

    async def change(store: "PostgresStore") -> "Changed":
        return await store.set_key_state(kind, object_id, state, reason, by=operator_name())

    result = answer(settings, change, as_json)
    if as_json:
        print_json({"ok": result.done, "words": result.words})
    else:
        say(f"{short(object_id)}: {result.words}")
    sys.exit(0 if result.done else EXIT_NO)


def _read(
    config: str | None, as_json: bool, which: tuple[str, int] | None
) -> tuple[Sequence["View"], Sequence["View"]]:
    """The registry, or its rows of one object with the changes of its state."""
    from kmsd.commands.database import answer

    settings = settings_for(config, as_json, ("database_url",)).settings

    async def work(store: "PostgresStore") -> tuple[Sequence["View"], Sequence["View"]]:
        registry = await store.key_registry()
        if which is None:
            return registry, []
        kind, object_id = which
        rows = [row for row in registry if row["kind"] == kind and row["id"] == f"{object_id:064x}"]
        return rows, await store.key_changes(kind, object_id)

    return answer(settings, work, as_json)


def _parse(text: str, as_json: bool) -> tuple[str, int]:
    try:
        object_id = parse_id(text)
    except WireError as error:
        refuse(str(error), as_json, 2)
    kind = {IdType.KEY: "key", IdType.CRS: "crs"}.get(id_type(object_id) or IdType.CONTEXT)
    if kind is None:
        refuse(f"{text} is the id of no key and no CRS: write key:1 or crs:1", as_json, 2)
    return kind, object_id


def _headline(row: Mapping[str, Any]) -> str:
    state = KeyState(row["state"])
    by = f", set by {row['changed_by']}: {row['reason']}" if row["by_operator"] else ""
    return f"{short(int(row['id'], 16)):<10} {state.value} ({STATES[state].words}){by}"


def _story(row: Mapping[str, Any]) -> Iterator[str]:
    from kmsd.commands.show import instant

    yield _headline(row)
    if row.get("prep_keygen_id"):
        yield f"  {'preparation':<21} {short(int(row['prep_keygen_id'], 16))}"
    for column, words in INSTANTS.items():
        if row.get(column) is not None:
            yield f"  {words:<21} {instant(row[column])}"
    if row.get("activated_in_block") is not None:
        yield f"  {'activated in block':<21} {row['activated_in_block']}"
    for digest in row.get("digests") or ():
        yield f"  {digest['key_type'].lower() + ' digest':<21} {digest['digest']}"
    if row.get("crs_digest"):
        yield f"  {'digest':<21} {row['crs_digest']}"
    for url in row.get("storage_urls") or ():
        yield f"  {'storage':<21} {url}"


def _change(change: Mapping[str, Any]) -> str:
    from kmsd.commands.show import instant

    before = change["before"] or "nothing"
    return (
        f"  {instant(change['changed_at'])}: {before} → {change['after']} by {change['changed_by']}: {change['reason']}"
    )
