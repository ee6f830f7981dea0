"""The command line: what `kmsd` can be told. The commands themselves live in `kmsd.commands`, imported when called.

Exit status: 0 well; 1 no (unhealthy, failed, refused); 2 wrong usage; 3 `--once` left something; 69 a dependency is
down; 75 stopped without giving back leases; 78 configuration.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from kmsd.commands.options import Shared, config_option, json_option

COMMANDS: Mapping[str, tuple[str, str]] = {
    "start": ("kmsd.commands.start:start", "Run the daemon (also what plain `kmsd` does)."),
    "check": (
        "kmsd.commands.check:check",
        "Validate the configuration and print it, redacted, with where each value is from.",
    ),
    "migrate": (
        "kmsd.commands.migrate:migrate",
        "Bring the database's schema up to date, or adopt one of the Rust connector.",
    ),
    "health": ("kmsd.commands.health:health", "Ask a running daemon how it is; exit 0 healthy, 1 not."),
    "status": ("kmsd.commands.status:status", "Queues, chains, wallet and dependencies at a glance."),
    "doctor": ("kmsd.commands.doctor:doctor", "Ask every dependency and say what is wrong and what to do."),
    "list": ("kmsd.commands.listing:list_rows", "List requests and responses by state."),
    "show": ("kmsd.commands.show:show", "Tell the whole story of one request."),
    "retry": ("kmsd.commands.decide:retry", "Put a failed request or response back into the queue."),
    "fail": ("kmsd.commands.decide:fail", "Give a request up."),
    "rewind": ("kmsd.commands.rewind:rewind", "Read the chain again from a block; nothing is done twice."),
    "replay-quarantine": (
        "kmsd.commands.quarantine:replay_quarantine",
        "Decode quarantined logs again, e.g. after an upgrade.",
    ),
    "keys": ("kmsd.commands.keys:keys", "Keys and CRSs, their states, and setting those."),
    "sandbox": (
        "kmsd.commands.sandbox:sandbox",
        "Try everything on this machine: chain, Core, buckets, database, daemon.",
    ),
    "completion": ("kmsd.commands.completion:completion", "Print the shell's completion script."),
}
"""Name → where it is defined, and its line in `kmsd --help`; the help needs no import."""

ALIASES: Mapping[str, str] = {"validate": "check"}
"""Names that the reference connector uses."""


class Commands(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or its alias's."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest neighbour of an unknown name."""
        from difflib import get_close_matches

        name = args[0] if args else ""
        if name not in COMMANDS and name not in ALIASES:
            nearest = get_close_matches(name, [*COMMANDS, *ALIASES], 1, 0.5)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {nearest[0]!r}?" if nearest else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


EPILOG = """\
\b
Examples:
  kmsd check --config kmsd.toml         is the configuration right, and what is in force?
  kmsd --config kmsd.toml               run the daemon
  kmsd --once --config kmsd.toml        catch up to the chain's head, say what was done, exit
  kmsd status --watch                   watch it work
  kmsd list --state failed              what failed, and why
  kmsd retry pub:12                     try one again
  kmsd sandbox                          the whole party on this machine

Settings come from the file and from KMS_CONNECTOR_* variables, which win; see docs/configuration.md.
Ids may be written as pub:12, 0x0100…0c or in decimal.
"""


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@config_option
@click.option("--once", is_flag=True, help="Serve everything up to the head of now, print a summary, exit.")
@click.option("--from-block", type=click.IntRange(min=0), metavar="N", help="With --once: replay from block N.")
@json_option
@click.version_option(None, "-V", "--version", package_name="kmsd", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: str | None, once: bool, from_block: int | None, as_json: bool) -> None:
    """kmsd connects an FHEVM Gateway chain to a KMS Core.

    It hears the Gateway's requests, checks access rights on the host chains, fetches and verifies ciphertexts, has the
    Core work on them, and sends the signed answers back as transactions. Without a command it runs the daemon.
    """
    ctx.obj = Shared(config, as_json)
    if ctx.invoked_subcommand is None:
        from kmsd.commands.start import run

        ctx.exit(run(ctx.obj, once=once, from_block=from_block))
    if once or from_block is not None:
        raise click.UsageError("--once and --from-block belong to the daemon: kmsd --once, or kmsd start --once")


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line and exit."""
    return cli.main(args=None if arguments is None else list(arguments), prog_name="kmsd")
