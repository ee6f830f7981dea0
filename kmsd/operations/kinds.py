"""The names of the seven kinds of requests, without anything that needs the rest of kmsd.

What each kind *is* (tables, methods, functions, limits) stands in `kmsd.operations.table`.
"""

from enum import StrEnum


class Kind(StrEnum):
    """One of the seven requests of era v0.11. The value is the stem of the reference's labels and channels."""

    PUBLIC_DECRYPTION = "public_decryption"
    USER_DECRYPTION = "user_decryption"
    PREP_KEYGEN = "prep_keygen"
    KEYGEN = "keygen"
    CRSGEN = "crsgen"
    PRSS_INIT = "prss_init"
    KEY_RESHARE = "key_reshare_same_set"


class Stream(StrEnum):
    """A contract family whose logs are read together and share a cursor per node (decisions.md 7)."""

    DECRYPTION = "decryption"
    KEY_MANAGEMENT = "key_management"
