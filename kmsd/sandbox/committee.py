"""The other parties of the committee, scripted: `python -m kmsd.sandbox.committee`.

One process plays several KMS parties, each with its own transaction wallet and signing key. It watches the Gateway's
logs and answers every request of every kind as a party's connector and Core would together: right results, right
signatures over empty extraData, one transaction an answer, sent in batches. It fetches no ciphertexts: a sandbox handle
tells its clear value (`ciphertexts.clear_value`).
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import attrs

from kmsd.chain.transactions import Transaction, assemble, signing_digest
from kmsd.sandbox.ciphertexts import clear_value
from kmsd.sandbox.core_double_results import Signer, crs_digest, key_digests
from kmsd.sandbox.rpc import RpcClient, RpcError
from kmsd.wire import ids, shares
from kmsd.wire.addresses import parse_address, to_checksum
from kmsd.wire.eip712 import Domain
from kmsd.wire.handles import FHE_TYPES, fhe_type_of
from kmsd.wire.signatures import address_of, sign
from kmsd.wire.v0_11 import calls, events, typed_data

PRIORITY_FEE = 1_000_000_000
MAX_FEE = 100_000_000_000
"""Wei; a sandbox chain's base fee stays far below."""
BATCH = 100
"""Transactions in one JSON-RPC batch."""
GAS = {"decryption": 700_000, "ceremony": 2_000_000}
GAS_PER_HANDLE = 80_000
"""Room for a vote that crosses the threshold (wire/gateway.md 3.3); unspent gas is not paid."""


@attrs.frozen
class Contracts:
    """The Gateway contracts that requests come from and answers go to, with their signing domains."""

    decryption: bytes
    kms_generation: bytes
    decryption_domain: Domain
    kms_generation_domain: Domain


@attrs.define
class Party:
    """One scripted party: its keys and the next nonce of its wallet."""

    wallet_key: bytes
    signer: Signer
    nonce: int = 0

    @property
    def wallet(self) -> bytes:
        """The 20-byte address that sends."""
        return address_of(self.wallet_key)


@attrs.frozen
class Answer:
    """One transaction to send: recipient, calldata, gas limit."""

    to: bytes
    calldata: bytes
    gas: int


class Answers:
    """What one party says to each kind of request."""

    def __init__(self, contracts: Contracts, party: Party) -> None:
        self._contracts = contracts
        self._signer = party.signer
        self._by_event: dict[type[Any], Callable[[Any], Answer]] = {
            events.PublicDecryptionRequest: self._public,
            events.UserDecryptionRequest: self._user,
            events.PrepKeygenRequest: self._prep_keygen,
            events.KeygenRequest: self._keygen,
            events.CrsgenRequest: self._crsgen,
        }

    def to(self, record: Any) -> Answer | None:
        """The party's answer to a request event; None for events that ask nothing of the chain."""
        answer = self._by_event.get(type(record))
        return None if answer is None else answer(record)

    def _public(self, record: events.PublicDecryptionRequest) -> Answer:
        handles = [material.ct_handle for material in record.sns_materials]
        result = b"".join(clear_value(handle).to_bytes(32, "big") for handle in handles)
        digest = typed_data.public_decryption_digest(self._contracts.decryption_domain, handles, result, b"")
        calldata = calls.public_decryption_response(record.decryption_id, result, self._signer.sign(digest), b"")
        return Answer(self._contracts.decryption, calldata, GAS["decryption"] + GAS_PER_HANDLE * len(handles))

    def _user(self, record: events.UserDecryptionRequest) -> Answer:
        domain = self._contracts.decryption_domain
        handles = [material.ct_handle for material in record.sns_materials]
        payload = shares.SharePayload(
            verification_key=self._signer.verification_key,
            digest=typed_data.user_decryption_linker(domain, record.public_key, handles, record.user_address),
            signcrypted_ciphertexts=tuple(self._share(handle) for handle in handles),
            party_id=self._signer.party_id,
            degree=self._signer.degree,
        )
        share = shares.encode(payload)
        digest = typed_data.user_decryption_digest(domain, record.public_key, handles, share, b"")
        calldata = calls.user_decryption_response(record.decryption_id, share, self._signer.sign(digest), b"")
        return Answer(self._contracts.decryption, calldata, GAS["decryption"] + GAS_PER_HANDLE * len(handles))

    def _share(self, handle: bytes) -> shares.SigncryptedCiphertext:
        kind = fhe_type_of(handle).number
        secret = self._signer.signcrypted(
            handle, clear_value(handle) % (1 << 8 * FHE_TYPES[kind].plaintext_bytes), kind
        )
        return shares.SigncryptedCiphertext(kind, secret, handle, 1 if kind == 0 else 2)

    def _prep_keygen(self, record: events.PrepKeygenRequest) -> Answer:
        digest = typed_data.prep_keygen_digest(self._contracts.kms_generation_domain, record.prep_keygen_id)
        calldata = calls.prep_keygen_response(record.prep_keygen_id, self._signer.sign(digest))
        return Answer(self._contracts.kms_generation, calldata, GAS["ceremony"])

    def _keygen(self, record: events.KeygenRequest) -> Answer:
        digests = key_digests(record.key_id)
        digest = typed_data.keygen_digest(
            self._contracts.kms_generation_domain, record.prep_keygen_id, record.key_id, digests
        )
        calldata = calls.keygen_response(record.key_id, digests, self._signer.sign(digest))
        return Answer(self._contracts.kms_generation, calldata, GAS["ceremony"])

    def _crsgen(self, record: events.CrsgenRequest) -> Answer:
        made = crs_digest(record.crs_id, ids.max_num_bits(record.max_bit_length))
        digest = typed_data.crsgen_digest(
            self._contracts.kms_generation_domain, record.crs_id, record.max_bit_length, made
        )
        calldata = calls.crsgen_response(record.crs_id, made, self._signer.sign(digest))
        return Answer(self._contracts.kms_generation, calldata, GAS["ceremony"])


class Committee:
    """Watches one Gateway node and answers for every party."""

    def __init__(self, rpc: RpcClient, chain_id: int, contracts: Contracts, parties: list[Party], start: int) -> None:
        self._rpc = rpc
        self._chain_id = chain_id
        self._contracts = contracts
        self._parties = parties
        self._answers = [Answers(contracts, party) for party in parties]
        self._next = start
        self.answered = 0

    def prepare(self) -> None:
        """Read each wallet's nonce."""
        nonces = self._rpc.batch(
            [("eth_getTransactionCount", ["0x" + party.wallet.hex(), "pending"]) for party in self._parties]
        )
        for party, nonce in zip(self._parties, nonces, strict=True):
            party.nonce = int(nonce, 16)

    def step(self) -> bool:
        """Answer what new blocks ask; False when there was no new block."""
        head = int(self._rpc.call("eth_blockNumber"), 16)
        if head < self._next:
            return False
        wanted = [to_checksum(self._contracts.decryption), to_checksum(self._contracts.kms_generation)]
        upto = min(head, self._next + 999)
        logs = self._rpc.call("eth_getLogs", {"fromBlock": hex(self._next), "toBlock": hex(upto), "address": wanted})
        requests = [record for log in logs if (record := _request(log)) is not None]
        for party, answers in zip(self._parties, self._answers, strict=True):
            raws = [self._raw(party, answer) for record in requests if (answer := answers.to(record)) is not None]
            self._send(party, raws)
        self.answered += len(requests)
        self._next = upto + 1
        return True

    def _raw(self, party: Party, answer: Answer) -> bytes:
        payload = Transaction(
            self._chain_id, party.nonce, PRIORITY_FEE, MAX_FEE, answer.gas, answer.to, 0, answer.calldata
        ).payload()
        party.nonce += 1
        return assemble(payload, sign(signing_digest(payload), party.wallet_key))

    def _send(self, party: Party, raws: list[bytes]) -> None:
        for start in range(0, len(raws), BATCH):
            part = raws[start : start + BATCH]
            for answer in self._rpc.batch([("eth_sendRawTransaction", ["0x" + raw.hex()]) for raw in part]):
                if isinstance(answer, RpcError):
                    sys.stderr.write(f"party {to_checksum(party.wallet)}: {answer}\n")


def _request(log: dict[str, Any]) -> Any | None:
    """The decoded record of a request's log; None for other events."""
    topics = tuple(bytes.fromhex(topic[2:]) for topic in log["topics"])
    if not topics or topics[0] not in REQUEST_TOPICS:
        return None
    return events.decode(_RawLog(topics, bytes.fromhex(log["data"][2:])))


@attrs.frozen
class _RawLog:
    topics: tuple[bytes, ...]
    data: bytes


REQUEST_TOPICS = frozenset(event.topic for event in events.REQUEST_EVENTS)


def _parties(keys: Iterable[str], degree: int) -> list[Party]:
    """Parties from `WALLET_KEY:SIGNER_KEY:PARTY_ID` texts."""
    parties = []
    for text in keys:
        wallet, signer, number = text.split(":")
        parties.append(
            Party(
                bytes.fromhex(wallet.removeprefix("0x")),
                Signer(
                    bytes.fromhex(signer.removeprefix("0x")), party_id=int(number), degree=degree, centralized=False
                ),
            )
        )
    return parties


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Prints one JSON line when ready; keys come as a JSON list on standard input."""
    parser = argparse.ArgumentParser(description="scripted KMS parties of the sandbox")
    parser.add_argument("--gateway-port", type=int, required=True, help="JSON-RPC port on 127.0.0.1")
    parser.add_argument("--chain-id", type=int, required=True)
    parser.add_argument("--decryption", required=True, help="address of the Decryption contract")
    parser.add_argument("--kms-generation", required=True, help="address of the KMSGeneration contract")
    parser.add_argument("--from-block", type=int, default=0)
    parser.add_argument("--poll-ms", type=int, default=100)
    parser.add_argument("--degree", type=int, default=1, help="degree of the sharing, as the Core double's")
    options = parser.parse_args(arguments)
    decryption, generation = parse_address(options.decryption), parse_address(options.kms_generation)
    contracts = Contracts(
        decryption,
        generation,
        Domain("Decryption", "1", options.chain_id, decryption),
        Domain("KMSGeneration", "1", options.chain_id, generation),
    )
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    parties = _parties(json.loads(sys.stdin.readline()), options.degree)
    committee = Committee(RpcClient(options.gateway_port), options.chain_id, contracts, parties, options.from_block)
    committee.prepare()
    print(json.dumps({"parties": [to_checksum(party.wallet) for party in parties]}), flush=True)
    while not stopping:
        try:
            moved = committee.step()
        except OSError as error:
            sys.stderr.write(f"the Gateway node does not answer: {error}\n")
            moved = False
        if not moved:
            time.sleep(options.poll_ms / 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
