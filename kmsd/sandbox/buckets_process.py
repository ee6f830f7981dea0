"""Starts the buckets as a process of their own and speaks to them; for tests and the sandbox. Blocking."""

import http.client
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from kmsd.sandbox.process import ChildProcess, python_process

_OBJECTS_A_REQUEST = 1000
_TIMEOUT = 120.0


class Buckets:
    """The bucket server on 127.0.0.1. `logs` is an existing folder for its output; `tls` are the PEM files of a
    certificate and its key, for HTTPS besides HTTP.
    """

    def __init__(
        self, logs: Path, *, tls: tuple[Path, Path] | None = None, cache_mib: int = 128, name: str = "buckets"
    ) -> None:
        self._logs = logs
        self._name = name
        self._options = ["--cache-mib", str(cache_mib)]
        if tls is not None:
            self._options += ["--cert", str(tls[0]), "--key", str(tls[1])]
        self._process: ChildProcess | None = None
        self.port = 0
        self.tls_port: int | None = None

    def __enter__(self) -> "Buckets":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> ChildProcess:
        """The process, for signals. Raises RuntimeError before the start."""
        if self._process is None:
            raise RuntimeError(f"{self._name} were not started")
        return self._process

    def start(self) -> None:
        """Starts the server, empty, and waits until it serves. Raises RuntimeError with its words if it does not."""
        self._process = python_process(self._name, "kmsd.sandbox.buckets", self._options, self._logs)
        self._process.stdout_path.unlink(missing_ok=True)
        self._process.start()
        ready = self._process.ready_line()
        self.port, self.tls_port = ready["port"], ready["tls_port"]

    def stop(self) -> int | None:
        """Ends it with SIGTERM and returns its exit status."""
        return None if self._process is None else self._process.stop()

    def url_of(self, bucket: str, *, tls: bool = False) -> str:
        """The URL that the Gateway would name for a bucket."""
        return f"https://localhost:{self.tls_port}/{bucket}" if tls else f"http://127.0.0.1:{self.port}/{bucket}"

    def add_objects(self, recipes: Iterable[Mapping[str, Any]]) -> list[bytes]:
        """Makes ciphertexts from recipes (`kmsd.sandbox.buckets`, POST /_objects) and returns their digests in order.

        Raises ValueError where the server refuses one.
        """
        digests: list[bytes] = []
        waiting = iter(recipes)
        while part := list(islice(waiting, _OBJECTS_A_REQUEST)):
            digests += [bytes.fromhex(digest) for digest in self._control("POST", "/_objects", part)]
        return digests

    def add_ciphertext(self, handle: bytes, value: int, size: int | None = None, **more: Any) -> bytes:
        """Makes one ciphertext, `size` bytes long (None: the real size of its type), and returns its digest."""
        return self.add_objects([{"handle": handle.hex(), "value": value, "size": size, **more}])[0]

    def put(self, bucket: str, key: str, body: bytes, ciphertext_format: str | None = None) -> None:
        """Puts a body into one bucket."""
        headers = {} if ciphertext_format is None else {"x-amz-meta-Ct-Format": ciphertext_format}
        self._ask("PUT", f"/{bucket}/{key}", body, headers)

    def set_faults(self, bucket: str | None, faults: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the faults of a bucket, or those that hold for every bucket (None)."""
        self._control("POST", "/_faults", {"bucket": bucket, "faults": list(faults)})

    def set_fault(self, bucket: str | None, kind: str, **parameters: Any) -> None:
        """Makes this the bucket's only fault (`kmsd.sandbox.bucket_faults`)."""
        self.set_faults(bucket, [{"kind": kind, **parameters}])

    def heal(self, bucket: str | None) -> None:
        """Takes a bucket's faults away. GETs that hang already stay so."""
        self.set_faults(bucket, [])

    def stats(self) -> dict[str, Any]:
        """`GET /_stats`."""
        stats: dict[str, Any] = self._control("GET", "/_stats", None)
        return stats

    def _control(self, method: str, path: str, body: Any) -> Any:
        return json.loads(self._ask(method, path, b"" if body is None else json.dumps(body).encode(), {}))

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ValueError(f"{method} {path} answered {answer.status}: {content.decode(errors='replace')}")
        return content
