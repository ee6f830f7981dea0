"""What the worker asks the Gateway's contracts, in batches: is it finished? a key's digests? whose buckets?"""

from collections import deque
from collections.abc import Sequence

import trio

from kmsd.chain import jsonrpc, views
from kmsd.chain.chain import Chain
from kmsd.chain.jsonrpc import BadAnswer
from kmsd.coalesce import Coalescer
from kmsd.config import Settings
from kmsd.ports import Claimed, DependencyDown, RpcCall, Time
from kmsd.wire.v0_11.structs import KeyDigest

BATCH = 100
"""Views in one JSON-RPC batch."""
LINGER = 0.002
"""Seconds that a batch waits for company."""
OLD = 30.0
"""Seconds after which others may have finished a public decryption without us (decisions.md 18)."""
SAMPLE_INTERVAL = 10.0
"""Seconds between looks at the head."""


class GatewayQuestions:
    """Coalesced views of the Gateway. `run()` must be running. All raise DependencyDown."""

    def __init__(self, gateway: Chain, settings: Settings, time: Time) -> None:
        self._gateway = gateway
        self._decryption = settings.decryption_contract.address
        self._kms_generation = settings.kms_generation_contract.address
        self._config = settings.gateway_config_contract.address
        self._deadline = settings.rpc_timeout
        self._time = time
        self._done: Coalescer[int, bool] = Coalescer(self._ask_done, max_batch=BATCH, linger=LINGER, concurrency=4)
        self._heads: deque[tuple[float, int]] = deque(maxlen=int(OLD / SAMPLE_INTERVAL) + 2)
        self._sampling = trio.Lock()

    async def run(self) -> None:
        """Flush batches for ever, and know a recent head before a request comes that is to be judged by it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._done.run)
            while True:
                await self._sample()
                await trio.sleep(SAMPLE_INTERVAL)

    async def is_done(self, decryption_id: int) -> bool:
        """Whether the contract has enough answers to this decryption."""
        return await self._done.ask(decryption_id)

    async def is_fresh(self, row: Claimed) -> bool:
        """True when the request's block is surely younger than OLD; False when it is not, or cannot be told.

        A block above the head of some moment came after that moment, whatever clocks and timestamps say.
        """
        if row.block_number is None or self._time.now() - row.created_at > OLD:
            return False
        if not self._is_above_a_recent_head(row.block_number):
            await self._sample()
        return self._is_above_a_recent_head(row.block_number)

    def _is_above_a_recent_head(self, block_number: int) -> bool:
        now = trio.current_time()
        return any(now - at <= OLD and block_number > head for at, head in self._heads)

    async def key_digests(self, key_id: int) -> Sequence[KeyDigest]:
        """A generated key's digests in signed order; empty for what the contract does not know as one."""
        (materials,) = await views.key_materials(self._gateway, self._kms_generation, [key_id], deadline=self._deadline)
        return materials.key_digests if materials is not None else ()

    async def bucket_urls(self, senders: Sequence[bytes]) -> Sequence[str]:
        """Bucket URLs of coprocessors by transaction sender, "" for one that has none or is not registered."""
        found = await views.coprocessors(self._gateway, self._config, senders, deadline=self._deadline)
        return [one.s3_bucket_url if one is not None else "" for one in found]

    async def _ask_done(self, decryption_ids: Sequence[int]) -> Sequence[bool]:
        return await views.is_decryption_done(self._gateway, self._decryption, decryption_ids, deadline=self._deadline)

    async def _sample(self) -> None:
        """Look at the head if the last look is old; a node that does not answer leaves the question open."""
        async with self._sampling:
            began = trio.current_time()
            if self._heads and began - self._heads[-1][0] < SAMPLE_INTERVAL:
                return
            try:
                (answer,) = await self._gateway.batch([RpcCall("eth_blockNumber", ())], deadline=self._deadline)
                if answer.error is None:
                    self._heads.append((began, jsonrpc.quantity(answer.result)))
            except (DependencyDown, BadAnswer):
                pass
