"""`python -m bench [SCENARIO …] [--json] [--smoke]`: measure kmsd; no scenario: all of them."""

import argparse
import json
import sys

import attrs
from rich.console import Console
from rich.table import Table

from bench.scenarios import SCENARIOS, Figures, Stalled, measure


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 when a scenario stalled."""
    parser = argparse.ArgumentParser(prog="bench", description="measures kmsd on the sandbox's parts")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--json", action="store_true", help="the last line is JSON")
    parser.add_argument("--smoke", action="store_true", help="the short form: does every scenario still run?")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    console = Console(stderr=options.json)
    results: dict[str, Figures] = {}
    failed = False
    for name in options.scenarios or SCENARIOS:
        console.print(f"measuring {name}")
        try:
            results[name] = measure(name, smoke=options.smoke)
        except (Stalled, RuntimeError) as error:
            console.print(f"{name}: {error}", style="red", markup=False)
            failed = True
    console.print(_table(results))
    if options.json:
        print(json.dumps({"scenarios": {name: attrs.asdict(figures) for name, figures in results.items()}}), flush=True)
    return 1 if failed else 0


def _table(results: dict[str, Figures]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("scenario")
    for name in (
        "n",
        "accepted/s",
        "kmsd µs",
        "Postgres µs",
        "HTTP",
        "db tx",
        "MiB",
        "broadcast p50/p99",
        "accept p50/p99",
    ):
        table.add_column(name, justify="right")
    for name, f in results.items():
        table.add_row(
            name,
            str(f.operations),
            f"{f.accepted_per_s:g}",
            f"{f.daemon_cpu_us:,.0f}",
            f"{f.postgres_cpu_us:,.0f}",
            f"{f.http_requests:g}",
            f"{f.db_transactions:g}",
            f"{f.peak_rss_mib:.0f}",
            _pair(f.block_to_broadcast_ms),
            _pair(f.block_to_acceptance_ms),
        )
    return table


def _pair(milliseconds: dict[str, float]) -> str:
    return f"{milliseconds['p50']:.0f}/{milliseconds['p99']:.0f} ms" if milliseconds else ""


if __name__ == "__main__":
    sys.exit(main())
