"""Watches the Gateway chain from outside: what was asked, what this party answered, what the committee agreed on.

It reads blocks as they come and remembers when it first saw what, so latencies are those that a user of the chain
sees. Blocking; `look` is called by one thread, with connections of its own.
"""

import time
from typing import Any

import attrs

from kmsd.operations.kinds import Kind
from kmsd.sandbox.contracts import Deployment, Party
from kmsd.sandbox.handles import clear_value
from kmsd.sandbox.logs import get_logs
from kmsd.sandbox.rpc import RpcClient, RpcError
from kmsd.wire import shares
from kmsd.wire.contract import declared
from kmsd.wire.errors import WireError
from kmsd.wire.signatures import recover
from kmsd.wire.v0_11 import events, typed_data

BLOCKS_PER_LOOK = 200

_VERIFY = declared("verifyDecryptionEIP712KMSSignatures(bytes32[],bytes,bytes)", "(bool)")
_ANSWERED = {
    events.PrepKeygenResponse: (Kind.PREP_KEYGEN, "prep_keygen_id"),
    events.KeygenResponse: (Kind.KEYGEN, "key_id"),
    events.CrsgenResponse: (Kind.CRSGEN, "crs_id"),
    events.PublicDecryptionResponseCall: (Kind.PUBLIC_DECRYPTION, "decryption_id"),
}
_ASKED = {
    events.PublicDecryptionRequest: (Kind.PUBLIC_DECRYPTION, "decryption_id"),
    events.UserDecryptionRequest: (Kind.USER_DECRYPTION, "decryption_id"),
    events.PrepKeygenRequest: (Kind.PREP_KEYGEN, "prep_keygen_id"),
    events.KeygenRequest: (Kind.KEYGEN, "key_id"),
    events.CrsgenRequest: (Kind.CRSGEN, "crs_id"),
    events.KeyReshareSameSet: (Kind.KEY_RESHARE, "key_reshare_id"),
}


@attrs.define
class Asked:
    """A request as seen on chain: its event's record and when it was seen (seconds of time.monotonic)."""

    record: Any
    seen: float


@attrs.define
class Observer:
    """What has been seen on the Gateway chain since block `next_block`. `party` is the one whose answers count.

    `answers` holds the instants at which an accepted answer of the party was seen, by kind and id; more than one is a
    mistake that the contracts do not allow.
    """

    gateway: RpcClient
    host: RpcClient
    deployment: Deployment
    party: Party
    next_block: int = 0
    requests: dict[Kind, dict[int, Asked]] = attrs.field(factory=lambda: {kind: {} for kind in Kind})
    answers: dict[Kind, dict[int, list[float]]] = attrs.field(factory=lambda: {kind: {} for kind in Kind})
    consensus: dict[int, events.PublicDecryptionResponse] = attrs.field(factory=dict)
    active_keys: list[int] = attrs.field(factory=list)
    active_crs: list[int] = attrs.field(factory=list)

    def look(self) -> bool:
        """Reads the new blocks; False when there were none."""
        head = int(self.gateway.call("eth_blockNumber"), 16)
        if head < self.next_block:
            return False
        last = min(head, self.next_block + BLOCKS_PER_LOOK - 1)
        addresses = (self.deployment.decryption, self.deployment.kms_generation)
        logs = get_logs(self.gateway, addresses, self.next_block, last, list(events.BY_TOPIC))
        now = time.monotonic()
        for log in logs:
            self._take(events.decode(log), now)
        self.next_block = last + 1
        return True

    def accepted(self, kind: Kind) -> int:
        """Requests with an accepted answer of this party."""
        return sum(one in self.requests[kind] for one in self.answers[kind])

    def agreed_without_us(self, kind: Kind) -> int:
        """Public decryptions that the others have agreed on, without an answer of this party; of other kinds none."""
        if kind is not Kind.PUBLIC_DECRYPTION:
            return 0
        return sum(one not in self.answers[kind] for one in self.consensus)

    def latencies(self, kind: Kind) -> list[float]:
        """Seconds from a request's block to the block with this party's answer, for those that have one."""
        asked = self.requests[kind]
        return [seen[0] - asked[one].seen for one, seen in self.answers[kind].items() if one in asked]

    def answered_twice(self) -> list[tuple[Kind, int]]:
        """Requests with more than one accepted answer of this party."""
        return [(kind, one) for kind, found in self.answers.items() for one, seen in found.items() if len(seen) > 1]

    def refused_by_the_verifier(self) -> dict[int, str]:
        """Public decryptions whose agreed result the host chain's verifier refuses, or that are not the clear values.

        Those without an agreement yet are not among them.
        """
        asked = self.requests[Kind.PUBLIC_DECRYPTION]
        agreed = [(one, result) for one, result in self.consensus.items() if one in asked]
        refused: dict[int, str] = {}
        for start in range(0, len(agreed), 100):
            part = agreed[start : start + 100]
            calls = [("eth_call", [self._verification(asked[one].record, result), "latest"]) for one, result in part]
            for (one, result), answer in zip(part, self.host.batch(calls), strict=True):
                if isinstance(answer, RpcError):
                    refused[one] = str(answer)
                elif not int(answer, 16):
                    refused[one] = "the verifier says no"
                elif result.decrypted_result != _expected(asked[one].record):
                    refused[one] = "the agreed result is not the clear value"
        return refused

    def _take(self, record: Any, now: float) -> None:
        if found := _ASKED.get(type(record)):
            kind, name = found
            self.requests[kind].setdefault(getattr(record, name), Asked(record, now))
        elif isinstance(record, events.PrssInit):
            one = len(self.requests[Kind.PRSS_INIT]) + 1
            self.requests[Kind.PRSS_INIT][one] = Asked(record, now)
        elif isinstance(record, events.UserDecryptionResponse):
            if self._is_ours(record):
                self.answers[Kind.USER_DECRYPTION].setdefault(record.decryption_id, []).append(now)
        elif found := _ANSWERED.get(type(record)):
            kind, name = found
            if record.kms_tx_sender == self.party.tx.address:
                self.answers[kind].setdefault(getattr(record, name), []).append(now)
        elif isinstance(record, events.PublicDecryptionResponse):
            self.consensus[record.decryption_id] = record
        elif isinstance(record, events.ActivateKey):
            self.active_keys.append(record.key_id)
        elif isinstance(record, events.ActivateCrs):
            self.active_crs.append(record.crs_id)

    def _is_ours(self, record: events.UserDecryptionResponse) -> bool:
        """The event of a share does not say who sent it: its number of the party does, and its signature proves it."""
        try:
            share = shares.decode(record.user_decrypted_share)
        except WireError:
            return False
        asked = self.requests[Kind.USER_DECRYPTION].get(record.decryption_id)
        if asked is None or self.deployment.parties[share.party_id - 1] is not self.party:
            return False
        request = asked.record
        handles = [material.ct_handle for material in request.sns_materials]
        digest = typed_data.user_decryption_digest(
            self.deployment.decryption_domain,
            request.public_key,
            handles,
            record.user_decrypted_share,
            record.extra_data,
        )
        return recover(digest, record.signature) == self.party.signer.address

    def _verification(
        self, request: events.PublicDecryptionRequest, result: events.PublicDecryptionResponse
    ) -> dict[str, str]:
        handles = tuple(material.ct_handle for material in request.sns_materials)
        proof = bytes((len(result.signatures),)) + b"".join(result.signatures) + result.extra_data
        data = _VERIFY.encode(handles, result.decrypted_result, proof)
        return {"to": "0x" + self.deployment.kms_verifier.hex(), "data": "0x" + data.hex()}


def _expected(request: events.PublicDecryptionRequest) -> bytes:
    return b"".join(clear_value(material.ct_handle).to_bytes(32, "big") for material in request.sns_materials)
