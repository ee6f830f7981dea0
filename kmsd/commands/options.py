"""What commands share: options, loading the configuration, printing, asking before anything changes."""

import functools
import json
import sys
from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypeVar

import attrs
import click

from kmsd import redact
from kmsd.configuring.load import ConfigError, Loaded, load

EXIT_NO = 1
"""The answer is no: unhealthy, not found, refused."""
EXIT_UNAVAILABLE = 69
"""A dependency that the command needs is down (EX_UNAVAILABLE of sysexits.h)."""

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="KMSD_CONFIG",
    help="TOML file; see kmsd.toml.example. Also KMSD_CONFIG.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@attrs.frozen
class Shared:
    """What was said before the command's name: `kmsd --config x --json show …`."""

    config: str | None = None
    as_json: bool = False


def common(command: F) -> F:
    """`--config` and `--json` of one command; those before its name count too. Passes `config` and `as_json`."""

    @functools.wraps(command)
    def merged(*args: Any, config: str | None, as_json: bool, **others: Any) -> Any:
        shared = click.get_current_context().find_object(Shared) or Shared()
        return command(*args, config=config or shared.config, as_json=as_json or shared.as_json, **others)

    return config_option(json_option(merged))  # type: ignore[return-value]


def settings_for(config: str | None, as_json: bool, needed: Collection[str] | None) -> Loaded:
    """The configuration, or an exit with status 78 that lists what is wrong. Notices go to stderr."""
    try:
        loaded = load(config, needed=needed)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems, "notices": error.notices})
        for notice in error.notices:
            note(f"notice: {notice}")
        for problem in error.problems:
            note(f"error: {problem}")
        sys.exit(error.exit_status)
    for notice in loaded.notices:
        note(f"notice: {notice}")
    return loaded


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(redact.KNOWN(text), err=True)


def say(text: str = "") -> None:
    """A line of the command's answer, on stdout."""
    click.echo(redact.KNOWN(text))


def print_json(document: Any) -> None:
    """The command's answer for scripts, one line on stdout."""
    click.echo(json.dumps(plain_json(document), ensure_ascii=False))


def plain_json(value: Any) -> Any:
    """JSON values of `value` without secrets; integers beyond 2^53 as hexadecimal text."""
    if isinstance(value, str):
        return redact.KNOWN(value)
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return hex(value)
    return value


def refuse(words: str, as_json: bool, status: int = EXIT_NO) -> NoReturn:
    """End the command with words and a status."""
    if as_json:
        print_json({"ok": False, "error": words})
    note(f"error: {words}")
    sys.exit(status)


def confirm(question: str, yes: bool) -> None:
    """Ask before something changes; without a terminal only `--yes` is consent. Exits with status 1 on no."""
    if yes:
        return
    if not sys.stdin.isatty():
        note(f"{question} Not asked, because nobody is at a terminal: say --yes.")
        sys.exit(EXIT_NO)
    if not click.confirm(question, err=True):
        note("nothing was changed")
        sys.exit(EXIT_NO)
