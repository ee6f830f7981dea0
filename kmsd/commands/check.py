"""`kmsd check`: is the configuration right, and what is in force?"""

import sys

import click

from kmsd.commands.options import common, print_json, say, settings_for
from kmsd.configuring.document import explain
from kmsd.configuring.load import DEFAULT


@click.command()
@click.option("--online", is_flag=True, help="Also ask every dependency, as `kmsd doctor` does.")
@click.option("--set", "only_set", is_flag=True, help="Leave out keys that have their default.")
@common
def check(config: str | None, as_json: bool, online: bool, only_set: bool) -> None:
    """Validate the configuration; print every value, secrets hidden, and where it came from.

    Asks nobody unless --online. Exit 0 when it can be used, 78 when not.
    """
    loaded = settings_for(config, as_json, None)
    rows = [row for row in explain(loaded) if not (only_set and row.origin == DEFAULT)]
    if online:
        from kmsd.commands.doctor import examine

        sys.exit(examine(loaded, as_json))
    if as_json:
        values = {row.path: {"value": row.shown, "origin": row.origin} for row in rows}
        print_json({"ok": True, "settings": values, "notices": loaded.notices})
        return
    width = max((len(f"{row.path} = {row.shown}") for row in rows), default=0)
    for row in rows:
        text = f"{row.path} = {row.shown}"
        say(f"{text:<{min(width, 70)}}  # {row.origin}")
