"""Makes requests of all seven kinds on the sandbox's chains: first what they need, then the requests themselves, as a
burst or at a rate. Blocking.
"""

import threading
import time
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

from kmsd.sandbox import requests
from kmsd.sandbox.accounts import Call, RawSender, account, fund
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.buckets_process import Buckets
from kmsd.sandbox.contracts import Deployment
from kmsd.sandbox.handles import ciphertext_size, clear_value, make_handle

TYPES = (5, 5, 5, 5, 5, 5, 0, 2, 7, 8)
"""FHE types of the handles in turn: mostly 64-bit numbers, besides booleans, bytes, addresses and 256-bit numbers."""

DELEGATED_EVERY = 4
"""Every so many user decryptions one is asked for by a delegate."""

TWO_HANDLES_EVERY = 10
"""Every so many user decryptions one is for two handles."""

BURST = 200
"""Public decryptions of one transaction where no rate is asked for."""

TICK = 0.05
"""Seconds between transactions that keep to a rate."""


class Prepared(NamedTuple):
    """Handles that may be decrypted: of public decryptions, one each, and of user decryptions, one or two each."""

    public: tuple[bytes, ...]
    user: tuple[tuple[bytes, ...], ...]


class Requester:
    """The users, the dapp and the owner of a sandbox.

    `ciphertext_bytes` is the size of every ciphertext, None for real sizes. The buckets' names are those in the
    deployment's URLs; every bucket serves every ciphertext.
    """

    def __init__(
        self,
        deployment: Deployment,
        gateway: Anvil,
        host: Anvil,
        buckets: Buckets,
        *,
        ciphertext_bytes: int | None = None,
    ) -> None:
        self._deployment = deployment
        self._gateway, self._host, self._buckets = gateway, host, buckets
        self._size = ciphertext_bytes
        contract = account("dapp").address
        self.user = requests.asker(account("user"), contract)
        self.delegate = requests.asker(account("delegate"), contract, delegator=account("user"))
        self._payer = account("requester")
        fund(gateway.rpc, [self._payer])
        fund(host.rpc, [self._payer, self.user.account])
        self._owner = RawSender(deployment.owner, gateway.chain_id, gateway.rpc)
        self._host_owner = RawSender(deployment.owner, host.chain_id, host.rpc)
        self._sender = RawSender(self._payer, gateway.chain_id, gateway.rpc, batch=200)
        self._made = 0
        self._delegated = False

    def prepare(self, public: int, user: int, key_id: int) -> Prepared:
        """Makes the handles for so many decryptions: ciphertexts in the buckets, materials under the key and rights on
        the Gateway, rights and the delegation on the host chain. Handles are never used twice.
        """
        d = self._deployment
        doubles = sum(1 for number in range(user) if number % TWO_HANDLES_EVERY == TWO_HANDLES_EVERY - 1)
        handles = self._new_handles(public + user + doubles)
        digests = self._buckets.add_objects(
            {"handle": one.hex(), "value": clear_value(one), "size": ciphertext_size(one, self._size)}
            for one in handles
        )
        for_all, for_user = handles[:public], handles[public:]
        calls = requests.material_calls(d, handles, digests, key_id)
        calls += requests.gateway_public_calls(d, for_all)
        for who in (self.user.owner, self.user.contract):
            calls += requests.gateway_account_calls(d, for_user, [who] * len(for_user))
        # The node keeps a transaction's call tree: some at a time, so that it stays small.
        for start in range(0, len(calls), 20):
            self._owner.run(calls[start : start + 20])
        rights = requests.host_allow_calls(d, for_all, [self.user.contract], for_decryption=True)
        rights += requests.host_allow_calls(d, for_user, [self.user.owner, self.user.contract])
        for start in range(0, len(rights), 20):
            self._host_owner.run(rights[start : start + 20])
        if user and not self._delegated:
            self._delegate()
        return Prepared(tuple(for_all), tuple(_pairs(for_user, user)))

    def calls(self, prepared: Prepared, *, burst: bool) -> list[Call]:
        """The transactions that ask for what was prepared, public and user decryptions in turn. With `burst` many
        public decryptions share a transaction.
        """
        d, now = self._deployment, self._gateway_time()
        if burst:
            parts = [prepared.public[at : at + BURST] for at in range(0, len(prepared.public), BURST)]
            public = [requests.public_burst(d, part) for part in parts]
        else:
            public = [requests.public_request(d, [one]) for one in prepared.public]
        user = [
            requests.user_request(d, self.delegate if number % DELEGATED_EVERY == 3 else self.user, handles, now)
            for number, handles in enumerate(prepared.user)
        ]
        return [one for one in chain.from_iterable(zip_longest(public, user)) if one is not None]

    def send(self, calls: Sequence[Call], rate: float | None = None, stop: threading.Event | None = None) -> None:
        """Sends the transactions, `rate` a second (None: at once), until `stop` is set. Raises RpcError."""
        if rate is None:
            self._sender.submit(calls)
            return
        ending = stop or threading.Event()
        began, sent = time.monotonic(), 0
        while sent < len(calls) and not ending.wait(TICK):
            due = min(len(calls), int((time.monotonic() - began) * rate) + 1)
            self._sender.submit(calls[sent:due])
            sent = due

    def keygen(self) -> None:
        """Asks for a key: its preparation now, the key itself once that is done."""
        self._owner.run([requests.keygen(self._deployment)])

    def crsgen(self) -> None:
        """Asks for a CRS."""
        self._owner.run([requests.crsgen(self._deployment)])

    def prss_init(self) -> None:
        """Asks for the PRSS."""
        self._owner.run([requests.prss_init(self._deployment)])

    def key_reshare(self, key_id: int) -> None:
        """Asks for a reshare of a finished key."""
        self._owner.run([requests.key_reshare(self._deployment, key_id)])

    def _new_handles(self, count: int) -> list[bytes]:
        numbers = range(self._made, self._made + count)
        self._made += count
        chain_id = self._deployment.host_chain_id
        return [make_handle(number, chain_id, TYPES[number % len(TYPES)]) for number in numbers]

    def _delegate(self) -> None:
        d = self._deployment
        for helper in d.coprocessors[: d.thresholds.coprocessors]:
            sender = RawSender(helper.tx, self._gateway.chain_id, self._gateway.rpc)
            sender.run([requests.gateway_delegation_call(d, self.delegate, self._gateway_time())])
        delegator = self.delegate.delegator
        assert delegator is not None
        latest = self._host.call("eth_getBlockByNumber", "latest", False)
        call = requests.host_delegation_call(d, self.delegate, int(latest["timestamp"], 16) + 600)
        RawSender(delegator, self._host.chain_id, self._host.rpc).run([call])
        self._delegated = True

    def _gateway_time(self) -> int:
        return int(self._gateway.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)


def _pairs(handles: Sequence[bytes], count: int) -> list[tuple[bytes, ...]]:
    """Hands out the handles to `count` requests, two to every tenth."""
    waiting = iter(handles)
    sizes = (2 if number % TWO_HANDLES_EVERY == TWO_HANDLES_EVERY - 1 else 1 for number in range(count))
    return [tuple(next(waiting) for _ in range(size)) for size in sizes]
