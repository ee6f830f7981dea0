"""The user and password of a database URL, which operators often keep apart from it (PGUSER, PGPASSWORD, a file)."""

from urllib.parse import parse_qs, quote


def with_credentials(url: str, user: str | None, password: str | None) -> tuple[str, frozenset[str]]:
    """`url` with `user` and `password` where it has none itself; and which of `user` and `password` were put in.

    Understands several hosts (`host1:5432,host2:5432`), no host (a socket), and both given in the query.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url, frozenset()
    ends = [position for position in (rest.find(mark) for mark in "/?#") if position >= 0]
    end = min(ends, default=len(rest))
    netloc, tail = rest[:end], rest[end:]
    userinfo, _, hosts = netloc.rpartition("@")
    own_user, _, own_password = userinfo.partition(":")
    query = parse_qs(tail.partition("?")[2].partition("#")[0])
    used: set[str] = set()
    if user and not own_user and "user" not in query:
        own_user = quote(user, safe="")
        used.add("user")
    if password and not own_password and "password" not in query:
        own_password = quote(password, safe="")
        used.add("password")
    if not used:
        return url, frozenset()
    userinfo = own_user + (f":{own_password}" if own_password else "")
    return f"{scheme}://{userinfo}@{hosts}{tail}", frozenset(used)
