"""May, and can, a decryption under this key be sent now? (decisions.md 13 and 33)

A Core that does not hold a key burns the id of a request under it; so each shard is asked once per key beforehand.
"""

import trio

from kmsd.operations.core_desk import CoreDesk
from kmsd.operations.outcomes import Setback
from kmsd.operations.retry import Reason
from kmsd.ports import CoreMethod, KeyAllowance, Shard, StatusCode, Store
from kmsd.wire import ids

ALLOWANCE_FOR = 5.0
"""Seconds for which the registry's word about a key is believed."""
ABSENT_FOR = 2.0
"""Seconds for which a shard's word that it lacks a key is believed."""
MAX_KEYS = 1024
"""Keys remembered."""


class Keys:
    """Remembers what registry and shards said about keys."""

    def __init__(self, store: Store, core: CoreDesk, deadline: float) -> None:
        self._store = store
        self._core = core
        self._deadline = deadline
        self._allowances: dict[int, tuple[float, KeyAllowance]] = {}
        self._there: dict[tuple[str, int], None] = {}
        self._listed: dict[str, tuple[float, frozenset[str] | None]] = {}
        self._asking: dict[str, trio.Lock] = {}

    async def must_allow(self, key_id: int, needed: KeyAllowance) -> None:
        """Raise Setback unless the registry of keys allows what is `needed` under the key."""
        now = trio.current_time()
        known = self._allowances.get(key_id)
        if known is None or now - known[0] > ALLOWANCE_FOR:
            if len(self._allowances) >= MAX_KEYS:
                self._allowances.clear()
            known = self._allowances[key_id] = (now, await self._store.key_allowance(key_id))
        allowance = known[1]
        if allowance is KeyAllowance.ALL or allowance is needed:
            return
        raise Setback(
            Reason.KEY_NOT_ALLOWED,
            f"the registry of keys allows {allowance.value} under {ids.short(key_id)} (see kmsd keys)",
        )

    async def must_be_there(self, shard: Shard, key_id: int) -> None:
        """Raise Setback while the shard says that it lacks the key; return when it has it or does not say."""
        if (shard.endpoint, key_id) in self._there:
            return
        keys = await self._keys_of(shard)
        if keys is None:
            return
        if ids.to_core(key_id) not in keys:
            raise Setback(
                Reason.KEY_NOT_THERE, f"core {shard.endpoint} does not hold {ids.short(key_id)} (key material)"
            )
        if len(self._there) >= MAX_KEYS:
            self._there.clear()
        self._there[shard.endpoint, key_id] = None

    def doubt(self, shard: Shard, key_id: int) -> None:
        """The shard refused a request under the key as unknown: ask it again before the next."""
        self._there.pop((shard.endpoint, key_id), None)

    async def _keys_of(self, shard: Shard) -> frozenset[str] | None:
        """Ids of the keys that the shard lists, one question for all that wonder at the same time."""
        async with self._asking.setdefault(shard.endpoint, trio.Lock()):
            at, keys = self._listed.get(shard.endpoint, (-ABSENT_FOR, None))
            if trio.current_time() - at < ABSENT_FOR:
                return keys
            answer = await self._core.ask(shard, CoreMethod.GET_KEY_MATERIAL_AVAILABILITY, b"", deadline=self._deadline)
            keys = frozenset(answer.message.fhe_key_ids) if answer.status is StatusCode.OK else None
            self._listed[shard.endpoint] = (trio.current_time(), keys)
            return keys
