"""Keeps secrets out of everything that is printed (guarantee PR4).

Two means: `endpoint` shortens a URL to what may be shown, and a `Redactor` that knows the loaded secrets takes them out
of any text on its way to a log, an error or a page, wherever they came from (a library's exception, a peer's answer).
"""

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN = "***"
"""What stands in the place of a secret."""

SHORTEST_SECRET = 4
"""Shorter texts are not taken out of texts: a password `a` would make every line unreadable and hide nothing."""

SHORTEST_PATH_SECRET = 8
"""A segment of a URL's path this long may be an API key; `v3` or `rpc` is none."""

_USERINFO_OR_QUERY = re.compile(
    r"\b([a-z][a-z0-9+.-]*://)([^\s\"'<>\\/?#@]*@)?([^\s\"'<>\\?#]*)(\?[^\s\"'<>\\]*)?", re.I
)


def endpoint(url: str) -> str:
    """`scheme://host:port` of `url`, without user, password, path, query and fragment.

    Never raises and never gives back what it could not understand: such a text becomes `scheme://***` or `***`.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return HIDDEN
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    if not host:
        return f"{scheme}://" if not rest.strip("/") else f"{scheme}://{HIDDEN}"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme.lower()}://{shown}" + (f":{port}" if port is not None else "")


def url_secrets(url: str) -> tuple[str, ...]:
    """The parts of `url` that may be secret: password, long segments of its path, values of its query."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return (url,)
    found = [password, unquote(password)] if password else []
    found += [segment for segment in parts.path.split("/") if len(segment) >= SHORTEST_PATH_SECRET]
    found += [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST_PATH_SECRET]
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
            self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """`text` without any secret."""
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        if "://" in text:
            text = _USERINFO_OR_QUERY.sub(_without_userinfo_and_query, text)
        return text

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._secrets)} forms of secrets>"


def _without_userinfo_and_query(match: re.Match[str]) -> str:
    scheme, userinfo, rest, query = match.groups()
    return scheme + (f"{HIDDEN}@" if userinfo else "") + rest + (f"?{HIDDEN}" if query else "")
