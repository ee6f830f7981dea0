"""S3 over HTTP for tests: GET of objects by path-style URL, with the query signature (AWS Signature V4) verified.

The signature is computed here from the specification, not with the library that made it. Objects live in a region;
asked in another one, the double answers as S3 does and names the right one.
"""

import hashlib
import hmac
import threading
import urllib.parse
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class S3Double:
    """Buckets on 127.0.0.1; `url` is the endpoint. Use as a context manager.

    `secrets` are secret keys by access key id; `token` is the session token that must come along, if any. `regions` are
    by bucket. `refusals` are the reasons for 403 answers.
    """

    def __init__(self, secrets: dict[str, str], token: str | None = None) -> None:
        self.secrets, self.token = secrets, token
        self.objects: dict[tuple[str, str], tuple[bytes, str | None]] = {}
        self.regions: dict[str, str] = {}
        self.refusals: list[str] = []
        self.answers: list[int] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, headers, body = double.answer(self.path, self.headers["host"])
                double.answers.append(status)
                self.send_response(status)
                for name, value in ({"content-length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "S3Double":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, target: str, host: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a GET."""
        path, _, query = target.partition("?")
        bucket, _, key = urllib.parse.unquote(path.removeprefix("/")).partition("/")
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
        region, reason = self._verify(path, pairs, host)
        home = self.regions.get(bucket, "eu-west-1")
        if reason is None and region != home:
            return 301, {"x-amz-bucket-region": home, "location": "http://127.0.0.1:9/"}, b"<Error>PermanentRedirect"
        if reason is not None:
            self.refusals.append(reason)
            return 403, {}, b"<Error>SignatureDoesNotMatch"
        found = self.objects.get((bucket, key))
        if found is None:
            return 404, {}, b"<Error>NoSuchKey"
        body, form = found
        return 200, {} if form is None else {"x-amz-meta-Ct-Format": form}, body

    def _verify(self, path: str, pairs: list[tuple[str, str]], host: str) -> tuple[str, str | None]:
        """The region that was signed for, and why the signature does not hold (None: it does)."""
        values = dict(pairs)
        signature = values.pop("X-Amz-Signature", None)
        if signature is None or len(values) + 1 != len(pairs):
            return "", "not signed"
        key_id, day, region, service, terminator = values["X-Amz-Credential"].split("/")
        secret = self.secrets.get(key_id)
        if secret is None or (service, terminator) != ("s3", "aws4_request"):
            return region, "unknown access key"
        if values.get("X-Amz-Security-Token") != self.token:
            return region, "wrong session token"
        signed_at = datetime.strptime(values["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        age = datetime.now(UTC) - signed_at
        if not timedelta(minutes=-5) < age < timedelta(seconds=int(values["X-Amz-Expires"])):
            return region, "expired"
        quote = urllib.parse.quote
        query = "&".join(f"{quote(name, safe='-_.~')}={quote(values[name], safe='-_.~')}" for name in sorted(values))
        request = "\n".join(["GET", path, query, f"host:{host}", "", values["X-Amz-SignedHeaders"], "UNSIGNED-PAYLOAD"])
        scope = f"{day}/{region}/s3/aws4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", values["X-Amz-Date"], scope, hashed])
        signing = ("AWS4" + secret).encode()
        for part in (day, region, "s3", "aws4_request"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        expected = hmac.new(signing, text.encode(), hashlib.sha256).hexdigest()
        return region, None if hmac.compare_digest(expected, signature) else "the signature does not match"
