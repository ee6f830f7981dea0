"""Health checks as data: what is looked at, how grave it is, what the operator should do.

`/healthz`, `kmsd status`, `kmsd doctor`, the gauge `kms_connector_check_failing`, the alert rules (one for each row),
`docs/metrics.md` and the alerts of `docs/operating.md` are made from this table. A check judges facts in memory; it
asks nobody.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import attrs

from kmsd.observe.health import Dependency, Health
from kmsd.observe.metrics import Metrics

STALE = 60.0
"""Seconds after which a dependency that nobody has heard of counts as unknown: background checks come every few."""
LAG_BLOCKS = 1_000
"""Blocks that a cursor may be behind before somebody should look."""
SCAN_AGE = 60.0
"""Seconds since the last scanned range before somebody should look."""
QUEUE_AGE = 600.0
"""Age in seconds of the oldest waiting decryption before somebody should look."""
UNMINED_AGE = 120.0
"""Age in seconds of the oldest unmined transaction before somebody should look."""
LOOP_LAG = 1.0
"""Seconds that the event loop may be late."""


class Severity(StrEnum):
    """CRITICAL: the party does not do its part now. WARNING: it will not, or not fully, if nobody looks."""

    CRITICAL = "critical"
    WARNING = "warning"


class View(NamedTuple):
    """The facts that checks judge. `roles` are those of this daemon."""

    health: Health
    metrics: Metrics
    roles: Sequence[str]

    def group(self, prefix: str) -> list[Dependency]:
        """Dependencies whose name begins with `prefix`."""
        return [known for name, known in self.health.dependencies.items() if name.startswith(prefix)]


@attrs.frozen
class Check:
    """One row. `judge` gives words while the check fails, else None. `gates`: `/healthz` answers 503 while it fails.

    `title` says in a few words what it means that the check fails; `remedy` what the operator should do.
    """

    name: str
    title: str
    severity: Severity
    gates: bool
    judge: Callable[[View], str | None]
    remedy: str


class Finding(NamedTuple):
    """A check that fails now."""

    check: Check
    words: str


def evaluate(view: View) -> list[Finding]:
    """The checks that fail now, in the order of the table."""
    findings = ((check, check.judge(view)) for check in CHECKS)
    return [Finding(check, words) for check, words in findings if words is not None]


def _trouble(known: Dependency, now: float) -> str | None:
    """Words while `known` is down, not asked yet, or not heard of for long."""
    if known.up is None:
        return f"{known.name}: not asked yet"
    if not known.up:
        return f"{known.name}: {known.detail} (for {now - (known.changed or now):.0f} s)"
    age = now - (known.last_report or now)
    return f"{known.name}: not heard of for {age:.0f} s" if age > STALE else None


def _every(view: View, prefix: str) -> str | None:
    """Words while any dependency of the group is in trouble."""
    now = view.health.now()
    return "; ".join(filter(None, (_trouble(known, now) for known in view.group(prefix)))) or None


def _any(view: View, prefix: str) -> str | None:
    """Words while all dependencies of the group are in trouble."""
    now = view.health.now()
    troubles = [_trouble(known, now) for known in view.group(prefix)]
    return "; ".join(filter(None, troubles)) if troubles and all(troubles) else None


def _some(view: View, prefix: str) -> str | None:
    """Words while some of the group, not all, are down."""
    return None if _any(view, prefix) else _down(view, prefix)


def _down(view: View, prefix: str) -> str | None:
    """Words while any of the group is down; one that nobody asked or heard of is none."""
    now = view.health.now()
    return "; ".join(filter(None, (_trouble(known, now) for known in view.group(prefix) if known.up is False))) or None


def _over(
    view: View, name: str, limit: float, words: str, series: Callable[[Sequence[str]], bool] | None = None
) -> str | None:
    """Words for the worst series of a gauge over `limit`."""
    values = (
        (value, labels) for labels, value in view.metrics.series(name).items() if series is None or series(labels)
    )
    value, labels = max(values, default=(0.0, ()))
    return f"{words}: {value:.0f}" + (f" ({', '.join(labels)})" if labels else "") if value > limit else None


def _scan_age(view: View) -> str | None:
    if "listener" not in view.roles:
        return None
    now = view.health.now()
    old = [
        f"{' '.join(labels)}: {now - instant:.0f} s ago"
        for labels, instant in view.metrics.series("kms_connector_listener_scan_timestamp_seconds").items()
        if instant and now - instant > SCAN_AGE
    ]
    return "last scan of " + "; ".join(old) if old else None


def _waiting_decryption(labels: Sequence[str]) -> bool:
    kind, _, state = labels
    return kind.endswith("decryption") and state != "failed"


CHECKS: Sequence[Check] = (
    Check(
        "database",
        "The database does not answer",
        Severity.CRITICAL,
        True,
        lambda view: _every(view, "database"),
        "Start PostgreSQL or correct database_url. kmsd connects again by itself; nothing is lost meanwhile.",
    ),
    Check(
        "gateway",
        "No Gateway node answers",
        Severity.CRITICAL,
        True,
        lambda view: _any(view, "gateway node "),
        "See the nodes' own state, the network, the key in the URL; add a node of another provider to gateway_nodes. "
        "Nothing is missed meanwhile.",
    ),
    Check(
        "core",
        "A KMS Core shard does not answer",
        Severity.CRITICAL,
        True,
        lambda view: _every(view, "core ") if "worker" in view.roles else None,
        "Start it, or correct kms_core_endpoints. Requests wait for it.",
    ),
    Check(
        "core_paused",
        "The KMS Core refuses every request of a kind",
        Severity.CRITICAL,
        False,
        lambda view: _over(view, "kms_connector_core_paused", 0, "the Core says that it is not usable"),
        "Its own log says why (PRSS not initialised, permissions, version). Requests wait and resume by themselves.",
    ),
    Check(
        "gateway_node",
        "One of several Gateway nodes does not answer",
        Severity.WARNING,
        False,
        lambda view: _some(view, "gateway node "),
        "Nothing is missed while another does; key ceremonies wait for two that agree. Repair it, or change its url.",
    ),
    Check(
        "host_chain",
        "A host chain does not answer",
        Severity.WARNING,
        False,
        lambda view: _down(view, "host chain "),
        "Decryptions of its handles wait. See its url and backup_urls in host_chains.",
    ),
    Check(
        "bucket",
        "A coprocessor's bucket does not serve",
        Severity.WARNING,
        False,
        lambda view: _down(view, "bucket "),
        "Others are asked instead; tell its operator if it stays.",
    ),
    Check(
        "wallet",
        "The transaction key cannot sign",
        Severity.CRITICAL,
        False,
        lambda view: _down(view, "wallet") or _down(view, "AWS KMS"),
        "See the key's state, policy and region. Responses wait.",
    ),
    Check(
        "lane_paused",
        "Sending is paused",
        Severity.CRITICAL,
        False,
        lambda view: _over(view, "kms_connector_tx_sender_lane_paused", 0, "sending is paused"),
        "A mistake that would fail every response (wallet not registered, no funds, signer refused); the alert says "
        "which. Sending resumes by itself when it is put right.",
    ),
    Check(
        "unmined",
        "Transactions are not mined",
        Severity.WARNING,
        False,
        lambda view: _over(
            view, "kms_connector_tx_sender_oldest_unmined_seconds", UNMINED_AGE, "oldest unmined transaction, seconds"
        ),
        "See the Gateway's fees against max_fee_per_gas, and the nodes. kmsd raises fees and fills gaps by itself.",
    ),
    Check(
        "lag",
        "The listener is far behind the head",
        Severity.WARNING,
        False,
        lambda view: _over(view, "kms_connector_listener_lag_blocks", LAG_BLOCKS, "blocks behind the head"),
        "It is catching up, or a node is slow. Nothing is missed; see the node and get_logs_batch_size.",
    ),
    Check(
        "scan",
        "No block range was read for a while",
        Severity.WARNING,
        False,
        _scan_age,
        "See the node and the database: a range counts only once it is stored.",
    ),
    Check(
        "queue_age",
        "A decryption waits for long",
        Severity.WARNING,
        False,
        lambda view: _over(
            view,
            "kms_connector_queue_oldest_age_seconds",
            QUEUE_AGE,
            "oldest waiting decryption, seconds",
            _waiting_decryption,
        ),
        "`kmsd list --state pending` and `kmsd show ID` say for what.",
    ),
    Check(
        "quarantine",
        "Something could not be decoded",
        Severity.WARNING,
        False,
        lambda view: _over(view, "kms_connector_quarantined", 0, "logs or rows in quarantine"),
        "It is kept: `kmsd replay-quarantine --show`. Upgrade kmsd, then `kmsd replay-quarantine`.",
    ),
    Check(
        "unconfirmed",
        "A key ceremony was shown by one node only",
        Severity.CRITICAL,
        False,
        lambda view: _over(view, "kms_connector_ceremonies_unconfirmed", 0, "ceremonies seen by one node only"),
        "It waits until a second node shows the event. Repair the other nodes, or decide with "
        "`kmsd retry ID --unconfirmed`.",
    ),
    Check(
        "divergence",
        "Our answer differs from the consensus",
        Severity.CRITICAL,
        False,
        lambda view: _over(view, "kms_connector_divergences", 0, "answers that differ from the consensus"),
        "The other parties' consensus differs from our Core's answer: its key material may be wrong. "
        "`kmsd list --diverging` and `kmsd show ID` name the requests.",
    ),
    Check(
        "event_loop",
        "The process does not get enough CPU",
        Severity.WARNING,
        False,
        lambda view: _over(view, "kms_connector_event_loop_lag_seconds", LOOP_LAG, "event loop late, seconds"),
        "Give it more CPU, or fewer operations at a time (task_limit).",
    ),
    Check(
        "stuck",
        "A part of the daemon is stuck",
        Severity.CRITICAL,
        False,
        lambda view: (
            "; ".join(
                f"{one.loop}: no sign of life for {one.overdue:.0f} s beyond its time"
                for one in view.health.heartbeats.silent()
            )
            or None
        ),
        "It waits for no dependency: that is a defect. systemd's watchdog restarts the daemon, otherwise restart it; "
        "nothing is lost. Report it with the log.",
    ),
    Check(
        "series_dropped",
        "A metric has too many label values",
        Severity.WARNING,
        False,
        lambda view: _over(view, "kms_connector_metric_series_dropped", 0, "updates of metrics dropped"),
        "The number is right, its split into labels is not. Report it.",
    ),
    Check(
        "alert",
        "The daemon itself raised an alert",
        Severity.WARNING,
        False,
        lambda view: "; ".join(f"{alert.key}: {alert.words}" for alert in view.health.alerts) or None,
        "Each alert says itself what to do.",
    ),
)
"""Every check, most grave first."""


def connected(view: View) -> Mapping[str, bool]:
    """The flags of the reference's `/healthz`; the Core's only where this daemon works for it."""
    failing = {finding.check.name for finding in evaluate(view)}
    flags = {"database_connected": "database" not in failing, "gateway_connected": "gateway" not in failing}
    if "worker" in view.roles:
        flags["kms_core_connected"] = "core" not in failing
    return flags


def words_of(findings: Iterable[Finding]) -> str:
    """One line for `details`."""
    return "; ".join(finding.words for finding in findings)
