"""`kmsd doctor`: ask every dependency and say what is wrong and what to do."""

import sys

import click

from kmsd.commands.options import EXIT_NO, common, print_json, say, settings_for
from kmsd.commands.progress import progress
from kmsd.configuring.load import Loaded


@click.command()
@common
def doctor(config: str | None, as_json: bool) -> None:
    """Ask database, nodes, contracts, Core, buckets and wallet; compare with the configuration.

    Changes nothing. Exit 0 when kmsd can do its job (warnings allowed), 1 when not.
    """
    sys.exit(examine(settings_for(config, as_json, None), as_json))


def examine(loaded: Loaded, as_json: bool) -> int:
    """Run the examination and print it; the exit status."""
    import trio

    from kmsd.doctor.examine import examine as run
    from kmsd.doctor.findings import Verdict
    from kmsd.observe import logs

    logs.configure("text", "error")
    with progress("asking everybody"):
        findings = trio.run(run, loaded.settings)
    bad = [finding for finding in findings if finding.verdict in (Verdict.ERROR, Verdict.UNKNOWN)]
    warnings = [finding for finding in findings if finding.verdict is Verdict.WARNING]
    if as_json:
        print_json({"ok": not bad, "findings": [finding._asdict() for finding in findings]})
        return EXIT_NO if bad else 0
    for finding in findings:
        say(f"{finding.verdict.value:<8} {finding.subject}: {finding.words}")
        if finding.remedy:
            say(f"         → {finding.remedy}")
    say(f"{len(findings)} looked at, {len(bad)} wrong, {len(warnings)} to look at")
    return EXIT_NO if bad else 0
