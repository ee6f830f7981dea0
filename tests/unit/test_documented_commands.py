"""Every `kmsd …` that a document or a remedy tells an operator to type is a command that exists, with those options."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kmsd.cli import ALIASES, COMMANDS, cli
from kmsd.doctor import chains, database, services
from kmsd.observe.alert_rules import rules

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = {"ID": "pub:12", "N": "3", "URL": "http://127.0.0.1:9100"}
"""What stands for the words in capitals."""
LINE = re.compile(r"^(?:export \S+ )?(?:\.venv/bin/)?kmsd(?= |$)(?P<rest>[^#\n|>]*)", re.MULTILINE)
INLINE = re.compile(r"`kmsd(?P<rest> [^`]*)?`")


def told() -> Iterator[tuple[str, str]]:
    """Where it stands, and what follows `kmsd`."""
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for found in (*(m for block in blocks for m in LINE.finditer(block)), *INLINE.finditer(prose)):
            yield page.name, (found["rest"] or "").strip()
    for rule in rules():
        for found in INLINE.finditer(rule.remedy):
            yield rule.name, (found["rest"] or "").strip()
    for module in (chains, database, services):
        for found in INLINE.finditer(inspect.getsource(module)):
            yield module.__name__, (found["rest"] or "").strip()


COMMANDS_TOLD = sorted(set(told()))


def parsed(words: list[str]) -> click.Context:
    """The command's context as click makes it; raises UsageError for what does not exist."""
    if not words or words[0].startswith("-"):
        return cli.make_context("kmsd", words, resilient_parsing=False)
    name, command, rest = cli.resolve_command(click.Context(cli), words)
    assert command is not None
    return command.make_context(name, rest, parent=click.Context(cli))


@pytest.mark.parametrize(("place", "text"), COMMANDS_TOLD, ids=lambda value: value or "kmsd")
def test_what_is_told_can_be_typed(place: str, text: str) -> None:
    words = [PLACES.get(word, word) for word in shlex.split(text)]
    bare = bool(words) and (words[0] in COMMANDS or words[0] in ALIASES) and len(words) == 1
    try:
        parsed(words)
    except click.MissingParameter:
        assert bare, f"{place}: kmsd {text} lacks something"  # only the command's name is spoken of
    except click.UsageError as error:
        pytest.fail(f"{place}: kmsd {text}: {error.format_message()}")


def test_there_is_much_to_check() -> None:
    assert len(COMMANDS_TOLD) > 30
    assert {text.split()[0] for _, text in COMMANDS_TOLD if text and not text.startswith("-")} >= set(COMMANDS) - {
        "start"
    }


def test_what_does_not_exist_is_found() -> None:
    for text in ("statu", "list --stat failed", "retry pub:1 --unconfirmd", "list --state lost"):
        with pytest.raises(click.UsageError):
            parsed(text.split())
