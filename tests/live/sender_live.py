"""A real Gateway for the sender: anvil with the contract doubles, requests on chain, answers signed by party 1."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio
from sender_world import Chance, FixedOwnership, MemoryStore, Row

from kmsd.chain.chain import Chain
from kmsd.chain.node import HttpNode
from kmsd.chain.wallet import LocalWallet
from kmsd.clock import SystemTime
from kmsd.config import Contract, Settings
from kmsd.observe.health import Health
from kmsd.observe.metrics import Metrics
from kmsd.operations.kinds import Kind
from kmsd.sandbox import requests
from kmsd.sandbox.accounts import Account, Call, RawSender, account
from kmsd.sandbox.answers import ScriptedParty
from kmsd.sandbox.anvil import Anvil
from kmsd.sandbox.contracts import Deployment
from kmsd.sandbox.handles import ciphertext, make_handles
from kmsd.sandbox.postgres import Postgres
from kmsd.sender import Sender
from kmsd.sending.calldata import COLUMNS
from kmsd.wakeups import WakeUps
from kmsd.wire.addresses import to_checksum
from kmsd.wire.errors import WireError
from kmsd.wire.ids import to_db
from kmsd.wire.keccak import keccak256
from kmsd.wire.v0_11 import events
from kmsd.wire.v0_11.calls import decode_call

KINDS: dict[type, Kind] = {
    events.PublicDecryptionRequest: Kind.PUBLIC_DECRYPTION,
    events.UserDecryptionRequest: Kind.USER_DECRYPTION,
    events.PrepKeygenRequest: Kind.PREP_KEYGEN,
    events.KeygenRequest: Kind.KEYGEN,
    events.CrsgenRequest: Kind.CRSGEN,
}
KEY_ID = (4 << 248) + 1
EMPTY_TRACE = "\\x" + "00" * 8
HANDLES = 100


class RawLog(NamedTuple):
    """A log as kmsd.wire decodes it."""

    topics: tuple[bytes, ...]
    data: bytes


class LiveGateway:
    """The Gateway chain, what was asked of it, and the votes that it has."""

    def __init__(self, anvil: Anvil, deployment: Deployment) -> None:
        self.anvil = anvil
        self.deployment = deployment
        self.requester = account("requester")
        self._requester = RawSender(self.requester, anvil.chain_id, anvil.rpc)
        self._owner = RawSender(deployment.owner, anvil.chain_id, anvil.rpc)
        self._handles: list[bytes] = []

    def run(self, calls: Sequence[Call], who: Account | None = None) -> list[Any]:
        """Send, mine where nobody does, and give the records of all requests."""
        sender = self._owner if who is None else RawSender(who, self.anvil.chain_id, self.anvil.rpc)
        return self._records(sender.run(calls))

    def run_unmined(self, calls: Sequence[Call], who: Account) -> None:
        """Send, and leave it to somebody else to make a block."""
        RawSender(who, self.anvil.chain_id, self.anvil.rpc).submit(calls)

    def prepare(self) -> None:
        """Handles that may be decrypted, and money for whoever asks."""
        deployment = self.deployment
        self.anvil.set_balance(self.requester.text, 10**24)
        handles = list(make_handles(HANDLES, deployment.host_chain_id))
        digests = [keccak256(ciphertext(handle, 100)) for handle in handles]
        self._owner.run(requests.material_calls(deployment, handles, digests, KEY_ID))
        self._owner.run(requests.gateway_public_calls(deployment, handles))
        self._handles = handles

    def ask_public(self, count: int) -> list[Any]:
        """`count` public decryption requests of one handle each."""
        handles = self._handles
        calls = [requests.public_burst(self.deployment, handles, 3)] * (count // (3 * len(handles)))
        left = count - 3 * len(handles) * len(calls)
        calls += [requests.public_burst(self.deployment, handles[: left % len(handles)])] if left % len(handles) else []
        calls += [requests.public_burst(self.deployment, handles)] * (left // len(handles))
        return self._records(self._requester.run(calls))

    def ask_user(self, count: int) -> list[Any]:
        """`count` user decryption requests."""
        who = requests.asker(account("user"), b"\x77" * 20)
        handles = self._handles[:count]
        owners = [address for handle in handles for address in (who.owner, who.contract)]
        doubled = [handle for handle in handles for _ in range(2)]
        self._owner.run(requests.gateway_account_calls(self.deployment, doubled, owners))
        now = int(self.anvil.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        calls = [requests.user_request(self.deployment, who, [handle], now) for handle in handles]
        return self._records(self._requester.run(calls))

    def fields(self, record: Any, party: int = 1) -> tuple[Kind, int, dict[str, Any]]:
        """Kind, id and columns of a party's right answer to a request."""
        call = ScriptedParty(self.deployment, party).answer(record)
        assert call is not None
        _, arguments = decode_call(call.data)
        kind = KINDS[type(record)]
        return kind, arguments[0], dict(zip(COLUMNS[kind], arguments[1:], strict=True))

    def store(self, store: MemoryStore, records: Sequence[Any], **overrides: Any) -> list[Row]:
        """Rows of party 1's answers."""
        rows = []
        for record in records:
            kind, row_id, fields = self.fields(record)
            store.requests[kind, row_id] = record
            rows.append(store.add(kind, row_id, **{**fields, **overrides}))
        return rows

    def vote(self, record: Any, parties: Sequence[int]) -> None:
        """Other parties answer; mined when somebody makes a block."""
        for number in parties:
            party = ScriptedParty(self.deployment, number)
            call = party.answer(record)
            assert call is not None
            RawSender(party.party.tx, self.anvil.chain_id, self.anvil.rpc).submit([call])

    def accepted(self, wallet: bytes) -> list[tuple[int, str]]:
        """Id and transaction of every answer that the contracts took from party 1, by its events."""
        signer = to_checksum(wallet).lower()[2:]
        found = []
        wanted = [to_checksum(self.deployment.decryption), to_checksum(self.deployment.kms_generation)]
        logs = self.anvil.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": wanted})
        for log in logs:
            topics = tuple(bytes.fromhex(topic[2:]) for topic in log["topics"])
            try:
                record = events.decode(RawLog(topics, bytes.fromhex(log["data"][2:])))
            except WireError:
                continue
            if type(record).__name__ in RESPONSE_EVENTS:
                transaction = self.anvil.call("eth_getTransactionByHash", log["transactionHash"])
                if transaction["from"].lower()[2:] == signer:
                    found.append((record[0], log["transactionHash"]))
        return found

    def _records(self, receipts: Sequence[dict[str, Any]]) -> list[Any]:
        records = []
        for receipt in receipts:
            for log in receipt["logs"]:
                topics = tuple(bytes.fromhex(topic[2:]) for topic in log["topics"])
                if topics[0] in TOPICS:
                    records.append(events.decode(RawLog(topics, bytes.fromhex(log["data"][2:]))))
        return [record for record in records if type(record) in KINDS]


TOPICS = {event.topic for event in events.REQUEST_EVENTS}
RESPONSE_EVENTS = (
    "PublicDecryptionResponseCall",
    "UserDecryptionResponse",
    "PrepKeygenResponse",
    "KeygenResponse",
    "CrsgenResponse",
)


class Rows:
    """The response table as an operator sees it."""

    def __init__(self, server: Postgres, url: str) -> None:
        self._server = server
        self._database = url.rsplit("/", 1)[1]

    def ask(self, sql: str) -> str:
        return self._server.execute(sql, self._database)

    def insert(self, gateway: LiveGateway, records: list[Any]) -> None:
        """Answers of party 1, as the worker stores them."""
        values = []
        for record in records:
            _, row_id, fields = gateway.fields(record)
            columns = [to_db(row_id), fields["decrypted_result"], fields["signature"], fields["extra_data"]]
            texts = [f"'\\x{column.hex()}'" for column in columns]
            values.append(f"({', '.join(texts)}, '{EMPTY_TRACE}', now())")
        self.ask(
            "INSERT INTO public_decryption_responses"
            " (decryption_id, decrypted_result, signature, extra_data, otlp_context, created_at)"
            f" VALUES {', '.join(values)}"
        )

    def count(self, condition: str) -> int:
        return int(self.ask(f"SELECT count(*) FROM public_decryption_responses WHERE {condition}"))


class LiveWorld:
    """A sender of party 1 against a LiveGateway, with rows and journal in memory."""

    def __init__(self, gateway: LiveGateway, store: Any = None, **settings: Any) -> None:
        deployment = gateway.deployment
        self.gateway = gateway
        self.store = store if store is not None else MemoryStore()
        if store is None:
            self.store.now = SystemTime().now
        self.wallet = LocalWallet(deployment.parties[0].tx.key)
        self.metrics = Metrics()
        self.health = Health(SystemTime())
        self.settings = Settings(
            **{
                "database_url": "postgresql:///none",
                "gateway_chain_id": deployment.gateway_chain_id,
                "decryption_contract": Contract(deployment.decryption, "Decryption"),
                "kms_generation_contract": Contract(deployment.kms_generation, "KMSGeneration"),
                "gateway_config_contract": Contract(deployment.gateway_config, "GatewayConfig"),
                "database_polling_timeout": 0.5,
                **settings,
            }
        )

    @asynccontextmanager
    async def running(self, ownership: Any = None) -> AsyncIterator[Sender]:
        """The sender at work."""
        anvil = self.gateway.anvil
        node = HttpNode("main", anvil.chain_id, [anvil.url], None, self.health, self.metrics)
        async with trio.open_nursery() as nursery:
            sender = Sender(
                self.settings,
                self.store,
                ownership or FixedOwnership(),
                WakeUps(),
                Chain([node], self.health),
                self.wallet,
                self.metrics,
                self.health,
                SystemTime(),
                Chance(),
            )
            nursery.start_soon(sender.run)
            yield sender
            nursery.cancel_scope.cancel()

    async def until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until `condition` holds; says how the rows stand when it does not."""
        with trio.move_on_after(timeout):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.02)
            return
        if not isinstance(self.store, MemoryStore):
            raise AssertionError(f"not within {timeout} s")
        states = [row.status for row in self.store.rows.values()]
        words = {row.last_error for row in self.store.rows.values() if row.last_error}
        raise AssertionError(f"not within {timeout} s: { {s: states.count(s) for s in set(states)} } {words}")

    def all_completed(self) -> bool:
        """Every row is completed."""
        return all(row.status == "completed" for row in self.store.rows.values())

    def check(self, count: int) -> None:
        """Every response was accepted once; nonces without gaps, one calldata each."""
        accepted = self.gateway.accepted(self.wallet.address)
        assert len(accepted) == count
        assert len({row_id for row_id, _ in accepted}) == count
        by_nonce: dict[int, set[bytes]] = {}
        for entry in self.store.journal.values():
            if entry.kind is not None:
                by_nonce.setdefault(entry.nonce, set()).add(entry.calldata_hash)
        assert all(len(hashes) == 1 for hashes in by_nonce.values())
