"""An OTLP/HTTP collector: keeps the spans that it is sent, or refuses them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What was received. `status` is the answer to the next requests."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.status = 200
        self.url = ""
        self.changed = threading.Condition()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """One request; the status of the answer."""
        with self.changed:
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(body)
            if self.status == 200:
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append({one.key: one.value.string_value for one in resource.resource.attributes})
                    for scope in resource.scope_spans:
                        self.spans += scope.spans
            self.changed.notify_all()
            return self.status

    def named(self, name: str) -> list[Any]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1, seconds: float = 60.0) -> list[Any]:
        """Wait in a thread until so many spans of this name are there."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.named(name)) >= count, seconds), (
                f"no {count} spans {name!r}; there are {sorted({span.name for span in self.spans})}"
            )
            return self.named(name)


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(collector.take(self.path, dict(self.headers), body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
