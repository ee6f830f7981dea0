"""`kmsd completion`: scripts for shells."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script, e.g. `kmsd completion bash > /etc/bash_completion.d/kmsd`."""
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "kmsd", "_KMSD_COMPLETE").source())
