"""A small blocking JSON-RPC client for the sandbox's own chains: one kept connection, single calls and batches.

The daemon has its own client (kmsd/chain); a double must not depend on what it is there to test.
"""

import http.client
import json
import threading
from collections.abc import Sequence
from typing import Any


class RpcError(Exception):
    """An error answer. `code` and `data` are the node's; `data` is "" where it gave none."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.data = error.get("data") or ""
        self.message = str(error.get("message", ""))
        super().__init__(f"{method}: {self.message} (code {self.code})")


class RpcClient:
    """Calls to 127.0.0.1:`port`. May be shared by threads; calls are done one after the other."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self.port = port
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def call(self, method: str, *params: Any) -> Any:
        """The result of one call. Raises RpcError, or OSError and http.client.HTTPException when there is no answer."""
        return self._result(method, self._post({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}))

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The answers of a batch in order: a result, or an RpcError in its place."""
        if not calls:
            return []
        body = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        answers = {answer["id"]: answer for answer in self._post(body)}
        results: list[Any] = []
        for number, (method, _) in enumerate(calls):
            try:
                results.append(self._result(method, answers[number]))
            except RpcError as error:
                results.append(error)
        return results

    def close(self) -> None:
        """Closes the connection; the next call opens a new one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @staticmethod
    def _result(method: str, answer: dict[str, Any]) -> Any:
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    def _post(self, body: Any) -> Any:
        payload = json.dumps(body).encode()
        with self._lock:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
            try:
                self._connection.request("POST", "/", payload, {"content-type": "application/json"})
                return json.loads(self._connection.getresponse().read())
            except (OSError, http.client.HTTPException):
                self._connection.close()
                self._connection = None
                raise
