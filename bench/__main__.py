"""`python -m bench [SCENARIO …] [--json] [--operations N] [--smoke] [--plots FOLDER]`; no scenario: all of them."""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from bench.figures import Figures, yardstick_us
from bench.measured import Stalled
from bench.scenarios import GROUPS, SCENARIOS, SMOKE, measure


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 when a scenario stalled."""
    parser = argparse.ArgumentParser(prog="bench", description="measures kmsd on the sandbox's parts")
    names = ", ".join((*SCENARIOS, *GROUPS))
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {names}; default: all")
    parser.add_argument("--json", action="store_true", help="the last line is JSON")
    parser.add_argument("--smoke", action="store_true", help="the short form: does every kind of scenario still run?")
    parser.add_argument("--operations", type=int, help="so many instead of each scenario's own number")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write the figures as PNG files besides")
    options = parser.parse_args(arguments)
    wanted = [one for name in options.scenarios for one in GROUPS.get(name, (name,))]
    unknown = [name for name in wanted if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]}; there are {names}")
    if not wanted:
        wanted = [name for name, scenario in SCENARIOS.items() if scenario.in_smoke or not options.smoke]
    console = Console(stderr=options.json)
    results: dict[str, Figures] = {}
    failed = False
    _say_around(console)
    for name in wanted:
        console.print(f"measuring {name}")
        try:
            results[name] = measure(
                name,
                operations=SMOKE if options.smoke else options.operations,
                say=lambda line, name=name: console.print(f"  {name}: {line}", markup=False, soft_wrap=True),  # type: ignore[misc]
            )
        except (Stalled, RuntimeError) as error:
            console.print(f"{name}: {error}", style="red", markup=False)
            failed = True
        else:
            console.print(f"  {name}: {json.dumps(attrs.asdict(results[name]))}", markup=False, soft_wrap=True)
    _say_around(console)
    console.print(_table(results))
    if options.plots is not None:
        from bench.plots import draw

        for file in draw({name: attrs.asdict(figures) for name, figures in results.items()}, options.plots):
            console.print(f"wrote {file}")
    if options.json:
        print(json.dumps({"scenarios": {name: attrs.asdict(figures) for name, figures in results.items()}}), flush=True)
    return 1 if failed else 0


def _say_around(console: Console) -> None:
    """What the figures depend on: the interpreter, the speed of the moment, and what else the machine does."""
    yardstick = yardstick_us()
    console.print(
        f"Python {platform.python_version()} ({platform.python_compiler()}), {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; yardstick: loop {yardstick['loop']:.0f} µs, "
        f"keccak of 98,844 bytes {yardstick['keccak']:.0f} µs",
        markup=False,
        soft_wrap=True,
    )


def _table(results: dict[str, Figures]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("scenario", no_wrap=True)
    for name in ("n", "/s", "kmsd µs", "PG µs", "HTTP", "db tx", "MiB", "broadcast p50/p99", "accept p50/p99"):
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
