"""The status page: one self-contained HTML file, its policy computed from what it contains.

`page.html` has one style and one script; the policy names their hashes and nothing else, so that nothing that comes
from outside could ever run or be loaded. The page asks `/overview` of its own origin and builds text nodes from it.
"""

import base64
import hashlib
import re
from importlib.resources import files

_INLINE = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


def policy(html: bytes) -> str:
    """The Content-Security-Policy that allows exactly the inline style and script of `html`."""
    hashes: dict[bytes, list[str]] = {b"style": [], b"script": []}
    for tag, text in _INLINE.findall(html):
        hashes[tag].append(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {' '.join(hashes[b'style'])}",
            f"script-src {' '.join(hashes[b'script'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


HTML = files("kmsd.observe").joinpath("page.html").read_bytes()
HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Security-Policy", policy(HTML)),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
"""Headers of the page beside those of every answer."""
