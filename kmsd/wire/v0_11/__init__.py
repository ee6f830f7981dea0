"""Era v0.11 of the protocol (Gateway contracts v0.10.0 to v0.11.4): wire/gateway.md sections 1 to 6, as codecs."""
