"""Pure codecs of the protocol: bytes in, records out, and back. No I/O, and nothing else of kmsd is imported here.

What every era shares lives in this package; what belongs to one era of the contracts lives in a package of its own
(`v0_11`). Bad input of any decoder raises `WireError` and nothing else. See docs/protocol.md.
"""
