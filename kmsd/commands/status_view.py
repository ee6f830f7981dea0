"""How `kmsd status` looks on a terminal. Nothing that comes from outside is taken for markup or control characters."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kmsd.commands.options import plain_json
from kmsd.operations.table import OPERATIONS


def render(document: Mapping[str, Any]) -> RenderableType:
    """The document for a terminal. Nothing in it is taken for markup."""
    shown = plain_json(dict(document))
    parts: list[RenderableType] = [*_daemon_lines(shown["daemon"]), Text("")]
    if "error" in shown["database"]:
        parts.append(_plain(f"database: {shown['database']['error']}", "red"))
    else:
        parts.append(_queues(shown["database"]))
    if "metrics" in shown["daemon"]:
        read = _Series(shown["daemon"]["metrics"])
        parts += [Text(""), _nodes(read), Text(""), *_rest(read)]
    if "healthz" in shown["daemon"]:
        parts += [Text(""), _dependencies(shown["daemon"]["healthz"])]
    return Group(*parts)


def _daemon_lines(daemon: Mapping[str, Any]) -> Iterator[RenderableType]:
    if "error" in daemon:
        yield _plain(f"daemon: {daemon['error']}", "red")
        return
    healthz = daemon["healthz"]
    healthy = healthz["healthy"]
    yield Text.assemble(
        (" healthy " if healthy else " NOT HEALTHY ", "black on green" if healthy else "white on red"),
        f"  kmsd {daemon['version']} as {daemon['instance_name']}, pid {daemon['pid']}, "
        f"up {duration(daemon['uptime_seconds'])}, {daemon['resident_bytes'] / 2**20:.0f} MiB, "
        f"roles {', '.join(daemon['roles'])}",
    )
    for finding in healthz["failing"]:
        style = "red" if finding["severity"] == "critical" else "yellow"
        yield _plain(f"  {finding.get('title', finding['check'])}: {finding['words']}", style)
        yield _plain(f"    → {finding['remedy']}", "dim")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _queues(database: Mapping[str, Any]) -> RenderableType:
    table = _table("Queues (rows, oldest)", "kind", "pending", "in work", "failed", "", "pending", "in work", "failed")
    table.columns[4].header = "│ responses:"
    cells = {(one["kind"], one["queue"], one["state"]): one for one in database["queues"]}
    for kind, operation in OPERATIONS.items():
        row = [kind.value]
        for queue in ("request", "response"):
            if queue == "response":
                row.append("│")
            for state in ("pending", "under_process", "failed"):
                one = cells.get((kind.value, queue, state))
                if one is None or not one["rows"]:
                    row.append("·" if queue == "request" or operation.response else "")
                else:
                    row.append(f"{one['rows']} {duration(one['oldest_age_seconds'])}")
        table.add_row(*row)
    if database["quarantined"] or database["unconfirmed"]:
        table.caption = f"{database['quarantined']} in quarantine, {database['unconfirmed']} ceremonies unconfirmed"
    return table


class _Series:
    """Reads series of a `/status` document."""

    def __init__(self, metrics: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self._metrics = metrics

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """All series of a family by their labels."""
        return {tuple(labels): float(value) for labels, value in self._metrics.get(f"kms_connector_{name}", ())}

    def one(self, name: str) -> float:
        """The series of a family without labels; 0 when it is not there."""
        return self.of(name).get((), 0.0)


def _nodes(read: _Series) -> RenderableType:
    table = _table("Nodes", "node", "head", "stream", "cursor", "lag", "last scan")
    heads, now = read.of("node_head_block"), time.time()
    lags, scans = read.of("listener_lag_blocks"), read.of("listener_scan_timestamp_seconds")
    for (node, stream), cursor in sorted(read.of("listener_cursor_block").items()):
        seen = scans.get((node, stream), 0.0)
        table.add_row(
            _plain(node),
            f"{heads.get((node,), 0):.0f}",
            stream,
            f"{cursor:.0f}",
            f"{lags.get((node, stream), 0):.0f}",
            f"{duration(now - seen)} ago" if seen else "never",
        )
    return table


def _rest(read: _Series) -> Iterator[RenderableType]:
    busy = [f"{sibling} {kind} {tasks:.0f}" for (sibling, kind), tasks in read.of("sibling_in_flight").items() if tasks]
    yield Text(f"in flight:  {', '.join(busy) or 'nothing'}")
    cores = read.of("core_in_flight")
    for (core,), window in read.of("core_window").items():
        paused = "  PAUSED" if read.of("core_paused").get((core,)) else ""
        yield Text(f"core:       {core}  {cores.get((core,), 0):.0f} of {window:.0f} in flight{paused}")
    used, limit = read.one("ciphertext_budget_used_bytes"), read.one("ciphertext_budget_limit_bytes")
    if limit:
        yield Text(f"ciphertext: {used / 2**20:.1f} of {limit / 2**20:.0f} MiB")
    held = "held" if read.one("tx_sender_lane_held") else "not held"
    paused = ", PAUSED" if read.one("tx_sender_lane_paused") else ""
    yield Text(
        f"wallet:     {read.one('tx_sender_balance_wei') / 1e18:,.4f} ETH, next nonce {read.one('tx_sender_nonce'):.0f}"
        f", mined {read.one('tx_sender_chain_nonce'):.0f}, {read.one('tx_sender_in_flight'):.0f} in flight, "
        f"oldest unmined {duration(read.one('tx_sender_oldest_unmined_seconds'))}, lane {held}{paused}"
    )


def _dependencies(healthz: Mapping[str, Any]) -> RenderableType:
    table = _table("Dependencies", "name", "state", "last answer", "detail")
    table.columns[3].justify = "left"
    states = {True: "up", False: "DOWN", None: "unknown"}
    for name, known in healthz["dependencies"].items():
        age = known["last_ok_age_seconds"]
        table.add_row(
            _plain(name),
            states[known["up"]],
            "never" if age is None else f"{duration(age)} ago",
            _plain(known["detail"]),
        )
    return table


def _plain(text: str, style: str = "") -> Text:
    """Text without markup; what cannot be printed (escape sequences of a peer's answer) is shown as �."""
    return Text("".join(char if char.isprintable() else "�" for char in text), style=style)


def duration(seconds: float) -> str:
    """Two units at most: `41s`, `7m 03s`, `3h 12m`, `9d 4h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
