"""Free TCP ports on 127.0.0.1."""

import socket


def free_port() -> int:
    """A port that nobody listens on at this moment. Another process may take it before the caller does: be ready to
    try again with another one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
