"""AWS KMS over HTTP for tests: GetPublicKey and Sign with MessageType DIGEST, as boto3 asks for them.

Unlike moto it signs the digest as it is. It can throttle, hang, refuse, and it gives high-s signatures now and then as
the real service does (which does not know EIP-2).
"""

import base64
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

import coincurve

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SPKI_SECP256K1 = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
SPKI_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def der_integer(number: int) -> bytes:
    """A DER INTEGER of a positive number."""
    text = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes((len(text),)) + text


def der_signature(r: int, s: int) -> bytes:
    """A DER ECDSA-Sig-Value."""
    body = der_integer(r) + der_integer(s)
    return b"\x30" + bytes((len(body),)) + body


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class AwsKmsDouble:
    """One key on 127.0.0.1; `url` is the endpoint. Use as a context manager."""

    def __init__(self, private_key: bytes, key_id: str = "alias/kms-wallet") -> None:
        self.key = coincurve.PrivateKey(private_key)
        self.key_id = key_id
        self.rate: float | None = None
        self.throttled = 0
        self._tokens, self._filled_at = 0.0, time.monotonic()
        self.fail_next: list[str] = []
        self.hang = Event()
        self.release = Event()
        self.wrong_curve = False
        self.high_s = 0
        self.signed: list[bytes] = []
        self.together = 0
        self.most_together = 0
        self._lock = Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = double.answer(self.headers["X-Amz-Target"].split(".")[1], body)
                text = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                return None

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "AwsKmsDouble":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, action: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON body."""
        with self._lock:
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        try:
            return self._answer(action, body)
        finally:
            with self._lock:
                self.together -= 1

    def _admitted(self, rate: float) -> bool:
        """A token bucket that holds a tenth of a second's calls."""
        now = time.monotonic()
        self._tokens = min(rate / 10, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _answer(self, action: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.hang.is_set():
            self.release.wait(30)
        with self._lock:
            if self.rate is not None and not self._admitted(self.rate):
                self.throttled += 1
                return 400, {"__type": "ThrottlingException", "message": "Rate exceeded"}
            if self.fail_next:
                return 400, {"__type": self.fail_next.pop(0), "message": "no"}
        if body.get("KeyId") != self.key_id:
            return 400, {"__type": "NotFoundException", "message": "no such key"}
        if action == "GetPublicKey":
            point = self.key.public_key.format(compressed=False)
            der = (SPKI_P256 if self.wrong_curve else SPKI_SECP256K1) + point
            return 200, {
                "KeyId": self.key_id,
                "PublicKey": base64.b64encode(der).decode(),
                "KeySpec": "ECC_SECG_P256K1",
                "KeyUsage": "SIGN_VERIFY",
                "SigningAlgorithms": ["ECDSA_SHA_256"],
            }
        digest = base64.b64decode(body["Message"])
        if action != "Sign" or body["MessageType"] != "DIGEST" or body["SigningAlgorithm"] != "ECDSA_SHA_256":
            return 400, {"__type": "ValidationException", "message": "only DIGEST and ECDSA_SHA_256"}
        if len(digest) != 32:
            return 400, {"__type": "ValidationException", "message": "digest of the wrong length"}
        signature = self.key.sign_recoverable(digest, hasher=None)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        with self._lock:
            self.signed.append(digest)
            if len(self.signed) % 2 == 0:  # half of all signatures of a signer that does not know EIP-2
                self.high_s += 1
                s = ORDER - s
        der = der_signature(r, s)
        return 200, {
            "KeyId": self.key_id,
            "Signature": base64.b64encode(der).decode(),
            "SigningAlgorithm": "ECDSA_SHA_256",
        }
