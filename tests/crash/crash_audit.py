"""The audit after a fault: the chain against kmsd's tables. What is lost, what was done twice, what is stuck.

lost       a request of the chain that is not stored, or that ended without an accepted answer of ours and without
           a failure that says why
doubled    a request with two mined transactions of ours (whatever their fate), or stored without being on chain
broken     a nonce with two different calldatas, a row still under process, a lease or a ceremony's turn without a
           living owner, a wrong result
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kmsd.operations.kinds import Kind
from kmsd.operations.table import OPERATIONS
from kmsd.sandbox.accounts import account
from kmsd.sandbox.contracts import Deployment
from kmsd.sandbox.observer import Observer
from kmsd.sandbox.postgres import Postgres
from kmsd.sandbox.rpc import RpcClient
from kmsd.sandbox.world import DATABASE, PARTY

BLOCKS_A_BATCH = 100

_REQUESTS = {operation.request_table: kind for kind, operation in OPERATIONS.items()}
_RESPONSES = {one.response.table: kind for kind, one in OPERATIONS.items() if one.response is not None}

_STATE = """
SELECT json_build_object(
    'rows', (SELECT json_agg(json_build_array(table_name, id, status, lease_owner, last_error)) FROM kmsd_rows),
    'owners', (SELECT json_agg(epoch) FROM kmsd_owners),
    'nonces', (SELECT json_agg(nonce) FROM (SELECT nonce FROM kmsd_transactions GROUP BY nonce
        HAVING count(DISTINCT calldata_hash) > 1) AS n),
    'turns', (SELECT json_agg(json_build_array(core, owner)) FROM kmsd_ceremony),
    'quarantined', (SELECT count(*) FROM kmsd_quarantine WHERE resolved_at IS NULL))
"""


@attrs.frozen
class Findings:
    """What an audit found; every list is empty where all is well. `failed` are requests that failed with a reason."""

    events: int
    lost: Sequence[str]
    doubled: Sequence[str]
    broken: Sequence[str]
    failed: Sequence[str]

    @property
    def clean(self) -> bool:
        """Nothing lost, doubled or broken."""
        return not (self.lost or self.doubled or self.broken)

    def __str__(self) -> str:
        parts = (("lost", self.lost), ("doubled", self.doubled), ("broken", self.broken), ("failed", self.failed))
        return "; ".join(f"{len(found)} {name}: {', '.join(found[:5])}" for name, found in parts if found) or "clean"


class Auditor:
    """Reads the Gateway chain as it grows; after a reorganisation call `forget`."""

    def __init__(self, gateway_port: int, host_port: int, deployment: Deployment, postgres: Postgres) -> None:
        self._ports = (gateway_port, host_port)
        self._deployment = deployment
        self._postgres = postgres
        self._wallet = deployment.parties[PARTY - 1].tx.text.lower()
        self.forget()

    def forget(self) -> None:
        """The chain is another one now: read it again from the beginning."""
        gateway, host = (RpcClient(port) for port in self._ports)
        self._gateway = gateway
        self.observer = Observer(gateway, host, self._deployment, self._deployment.parties[PARTY - 1])
        self._next_block = 0
        self._mined: Counter[str] = Counter()

    def look(self) -> int:
        """Read what is new; how many requests the chain has."""
        while self.observer.look():
            pass
        return sum(map(len, self.observer.requests.values()))

    def is_done(self) -> bool:
        """Whether every row is at its end, and every request of the chain with it. False while Postgres is away."""
        try:
            if not self._all_mined():
                return False
            self.look()
            rows = self._state()["rows"] or []
        except (RuntimeError, OSError):
            return False
        ended = all(status in ("completed", "failed") for _, _, status, *_ in rows)
        return ended and not self._compare(_requests_in(rows))[0]

    def audit(self) -> Findings:
        """Compare the whole chain with all tables."""
        self.look()
        state = self._state()
        requests = _requests_in(state["rows"] or ())
        broken, failed = [], []
        owners = set(state["owners"] or ())
        for table, row_id, status, owner, words in state["rows"] or ():
            name = f"{table} 0x{row_id.lstrip('0')}"
            if status not in ("completed", "failed"):
                broken.append(f"{name} is {status}: {words}")
            if status == "failed":
                (failed if words else broken).append(f"{name} failed: {words}")
            if owner is not None and (owner not in owners or status != "under_process"):
                broken.append(f"{name} is {status} and leased to {owner}")
        broken += [f"nonce {nonce} has two calldatas" for nonce in state["nonces"] or ()]
        broken += [f"the turn at {core} is still {owner}'s" for core, owner in state["turns"] or ()]
        if state["quarantined"]:
            broken.append(f"{state['quarantined']} logs or rows are in quarantine")
        broken += [f"{one:#x}: {why}" for one, why in self.observer.refused_by_the_verifier().items()]
        lost, doubled = self._compare(requests)
        doubled += [f"{key} was mined {count} times" for key, count in self._mined_by_us().items() if count > 1]
        events = sum(map(len, self.observer.requests.values()))
        return Findings(events, lost, doubled, broken, failed)

    def _compare(self, stored: Mapping[Kind, Mapping[int, tuple[str, str | None]]]) -> tuple[list[str], list[str]]:
        lost, doubled = [], []
        doubled += [f"{kind.value} {one:#x} has two answers" for kind, one in self.observer.answered_twice()]
        for kind, asked in self.observer.requests.items():
            rows, answers = stored[kind], self.observer.answers[kind]
            if kind is Kind.PRSS_INIT:  # has no id on chain: only their number can be compared
                lost += [f"{kind.value} number {n + 1} is not stored" for n in range(len(rows), len(asked))]
                doubled += [f"{kind.value} number {n + 1} is not on chain" for n in range(len(asked), len(rows))]
                continue
            doubled += [f"{kind.value} {one:#x} is stored and not on chain" for one in rows if one not in asked]
            for one in asked:
                status, words = rows.get(one, ("not stored", None))
                ended = status == "completed" and (one in answers or OPERATIONS[kind].response is None)
                if not ended and not (status == "failed" and words):
                    lost.append(f"{kind.value} {one:#x} is {status}, answers on chain: {one in answers}")
        return lost, doubled

    def _mined_by_us(self) -> Counter[str]:
        """Mined transactions of our wallet by function and request id, successful or not."""
        head = int(self._gateway.call("eth_blockNumber"), 16)
        while self._next_block <= head:
            last = min(head, self._next_block + BLOCKS_A_BATCH - 1)
            calls = [("eth_getBlockByNumber", [hex(number), True]) for number in range(self._next_block, last + 1)]
            for block in self._gateway.batch(calls):
                for transaction in block["transactions"]:
                    if transaction["from"].lower() == self._wallet:
                        self._mined[transaction["input"][:74]] += 1
            self._next_block = last + 1
        return self._mined

    def _all_mined(self) -> bool:
        """Whether no request is still on its way into a block."""
        payer = account("requester").text
        mined, sent = (self._gateway.call("eth_getTransactionCount", payer, tag) for tag in ("latest", "pending"))
        return bool(mined == sent)

    def _state(self) -> Any:
        return json.loads(self._postgres.execute(_STATE, DATABASE))


def _requests_in(rows: Sequence[Any]) -> dict[Kind, dict[int, tuple[str, str | None]]]:
    """Status and words of the stored requests, by kind and id."""
    found: dict[Kind, dict[int, tuple[str, str | None]]] = {kind: {} for kind in Kind}
    for table, row_id, status, _, words in rows:
        if table in _REQUESTS:
            found[_REQUESTS[table]][int(row_id, 16)] = (status, words)
    return found
