"""Secrets that live in files: readable by their owner only, or guarded by systemd."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from kmsd import redact
from kmsd.configuring.values import BadValue


def read_secret(path: str, environment: Mapping[str, str]) -> str:
    """The text of the file without its line end; it is known to the redactor from now on.

    Raises BadValue where others than the owner may read it. systemd guards its credentials by their directory and
    shows access control lists as group bits, so the mode of a file in there says nothing.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY")
    try:
        mode = os.stat(path).st_mode
        guarded = directory is not None and Path(path).resolve().is_relative_to(Path(directory).resolve())
        if not stat.S_ISREG(mode):
            raise BadValue(f"{path} is not a file")
        if not guarded and mode & 0o077:
            raise BadValue(
                f"{path} has mode {stat.S_IMODE(mode):04o}: others than its owner may read it; chmod 600 {path}"
            )
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadValue(f"{path} is not text") from None
    redact.KNOWN.add(text)
    return text
