"""What must not stand in a tracked file: hosts of package registries, resolved addresses, paths of somebody's machine.

Run by `make lint`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# In pieces, or this file would be a finding.
_HOSTS = (
    "pypi" + ".org",
    "files.python" + "hosted.org",
    "registry.npm" + "js.org",
    "registry.yarn" + "pkg.com",
    "static.crates" + ".io",
    "index.crates" + ".io",
    "deb.debian" + ".org",
    "proxy.golang" + ".org",
)
_PATHS = (
    r"(?<![\w./-])/wor" + "k/",
    "/root/" + "[.]",
    "/opt/wh" + "eels",
    "/tmp/bri" + "ef",
    "/tmp/uv" + "env",
)
_FORBIDDEN = re.compile("|".join((*map(re.escape, _HOSTS), *_PATHS)))
_RESOLVED = re.compile(r'"resolved"\s*:|--(?:extra-)?index-url|--find-links\s+\S*[:/]')


def tracked_files() -> list[Path]:
    """All files that git knows, or would with the next `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = (ROOT / name.decode() for name in listing.stdout.split(b"\0") if name)
    return [path for path in paths if path.is_file()]


def findings(path: Path, text: str) -> list[str]:
    """What is wrong with one file, a line each."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := _FORBIDDEN.search(line):
            found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]} has no place in a commit")
        elif path.suffix in (".json", ".lock", ".txt") and (match := _RESOLVED.search(line)):
            found.append(f"{path.relative_to(ROOT)}:{number}: lock files hold versions and hashes, not {match[0]}")
    return found


def main() -> int:
    """Prints the findings; 1 if there are any."""
    found: list[str] = []
    for path in tracked_files():
        try:
            found += findings(path, path.read_text())
        except UnicodeDecodeError:
            continue
    print("\n".join(found) or "repository check: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
