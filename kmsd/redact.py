"""Keeps secrets out of everything that is printed (guarantee PR4).

Two means: `endpoint` shortens a URL to what may be shown, and a `Redactor` that knows the loaded secrets takes them out
of any text on its way to a log, an error or a page, wherever they came from (a library's exception, a peer's answer).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote

HIDDEN = "***"
"""What stands in the place of a secret."""

SHORTEST_SECRET = 4
"""Shorter texts are not taken out of texts: a password `a` would make every line unreadable and hide nothing."""

SHORTEST_PATH_SECRET = 8
"""A segment of a URL's path this long may be an API key; `v3` or `rpc` is none."""

_SPLIT_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<netloc>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
_DATABASES = ("postgresql://", "postgres://")
_SECRET_NAME = re.compile(r"pass|secret|token|key|auth|sig", re.IGNORECASE)
_USERINFO_OR_QUERY = re.compile(
    r"\b([a-z][a-z0-9+.-]*://)([^\s\"'<>\\/?#@]*@)?([^\s\"'<>\\?#]*)(\?[^\s\"'<>\\]*)?", re.I
)


@lru_cache(maxsize=256)
def endpoint(url: str) -> str:
    """`scheme://host:port` of `url`, without user, password, path, query and fragment; several hosts as they are.

    Never raises and never gives back what it could not understand: such a text becomes `scheme://***` or `***`.
    """
    match = _SPLIT_URL.fullmatch(url.strip())
    if match is None:
        return HIDDEN
    scheme, hosts = match["scheme"].lower(), match["netloc"].rpartition("@")[2]
    if hosts and not all(_HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")):
        hosts = HIDDEN
    return f"{scheme}://{hosts}"


def url_secrets(url: str) -> tuple[str, ...]:
    """The parts of `url` that may be secret: password, long segments of its path, values of its query."""
    match = _SPLIT_URL.fullmatch(url.strip())
    if match is None:
        return (url,)
    password = match["netloc"].rpartition("@")[0].partition(":")[2]
    path, _, query = match["rest"].partition("#")[0].partition("?")
    found = [password, unquote(password)] if password else []
    found += [segment for segment in path.split("/") if len(segment) >= SHORTEST_PATH_SECRET]
    for name, value in parse_qsl(query):
        if len(value) >= SHORTEST_PATH_SECRET or _SECRET_NAME.search(name):
            found.append(value)
    return tuple(found)


class Redactor:
    """Takes known secrets out of texts; also user names, passwords and queries out of any URL.

    A secret is known in the forms in which it might come back: with and without `0x`, in both cases of hexadecimal,
    and percent-encoded.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn more secrets. Texts shorter than SHORTEST_SECRET are ignored."""
        for secret in secrets:
            bare = secret.strip()
            if bare[:2] in ("0x", "0X"):
                bare = bare[2:]
            if len(bare) >= SHORTEST_SECRET:
                self._secrets |= {bare, quote(bare, safe="")}
        if self._secrets:
            longest_first = sorted(self._secrets, key=lambda secret: (-len(secret), secret))
            self._pattern = re.compile("|".join(map(_any_form, longest_first)))

    def __call__(self, text: str) -> str:
        """`text` without any secret."""
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        if "://" in text:
            text = _USERINFO_OR_QUERY.sub(_without_userinfo_and_query, text)
        return text

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._secrets)} forms of secrets>"


KNOWN = Redactor()
"""The secrets of this process: whoever loads one adds it, every log line and page goes through it."""


def _any_form(secret: str) -> str:
    """A pattern for `secret`: hexadecimal digits in either case, anything else as it is."""
    escaped = re.escape(secret)
    return f"(?i:{escaped})" if re.fullmatch(r"[0-9A-Fa-f]{16,}", secret) else escaped


def _without_userinfo_and_query(match: re.Match[str]) -> str:
    """A database's user may be shown; elsewhere a user may be a token."""
    scheme, userinfo, rest, query = match.groups()
    if userinfo:
        user, colon, _ = userinfo[:-1].partition(":")
        shown = user + (f":{HIDDEN}" if colon else "") if scheme.lower() in _DATABASES else HIDDEN
        scheme += f"{shown}@"
    return scheme + rest + (f"?{HIDDEN}" if query else "")
