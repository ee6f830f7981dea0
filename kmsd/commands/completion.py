"""`kmsd completion`: scripts for shells."""

import click
from click.shell_completion import get_completion_class

from kmsd.commands.options import Shared, json_option, print_json

FILES = {
    "bash": "/etc/bash_completion.d/kmsd",
    "zsh": "_kmsd in a directory of fpath",
    "fish": "~/.config/fish/completions/kmsd.fish",
}
"""Where each shell looks for it."""


@click.command(
    epilog="\b\n" + "\n".join(f"  kmsd completion {shell} > {file}" for shell, file in FILES.items()),
)
@click.argument("shell", type=click.Choice(list(FILES)))
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script of a shell: commands, options, kinds, states."""
    made = get_completion_class(shell)
    assert made is not None
    script = made(ctx.find_root().command, {}, "kmsd", "_KMSD_COMPLETE").source()
    shared = ctx.find_object(Shared)
    if as_json or (shared is not None and shared.as_json):
        print_json({"ok": True, "shell": shell, "file": FILES[shell], "script": script})
    else:
        click.echo(script)
