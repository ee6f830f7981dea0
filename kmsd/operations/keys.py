"""May, and can, a decryption under this key be sent now? (decisions.md 13 and 33)

A Core that does not hold a key burns the id of a request under it; so each shard is asked once per key beforehand.
"""

import logging
from typing import TypeVar

import trio

from kmsd.chain.views import ViewRefused
from kmsd.operations.core_desk import CoreDesk
from kmsd.operations.gateway import GatewayQuestions
from kmsd.operations.outcomes import Setback
from kmsd.operations.retry import Reason
from kmsd.ports import CoreMethod, DependencyDown, KeyAllowance, Shard, StatusCode, Store
from kmsd.wire import ids

log = logging.getLogger("kmsd.worker")

ALLOWANCE_FOR = 5.0
"""Seconds for which the registry's word about a key is believed."""
ABSENT_FOR = 2.0
"""Seconds for which a shard's word that it lacks a key is believed."""
MAX_KEYS = 1024
"""Keys remembered."""

K = TypeVar("K")
V = TypeVar("V")


class Keys:
    """Remembers what registry and shards said about keys."""

    def __init__(
        self, store: Store, core: CoreDesk, gateway: GatewayQuestions, deadline: float, *, refuse: bool = False
    ) -> None:
        """`refuse`: fail what a key does not allow, instead of waiting for its state to change."""
        self._store = store
        self._core = core
        self._gateway = gateway
        self._deadline = deadline
        self._refusal = Reason.KEY_REFUSED if refuse else Reason.KEY_NOT_ALLOWED
        self._allowances: dict[int, tuple[float, KeyAllowance]] = {}
        self._met: dict[int, None] = {}
        self._wondering = trio.Lock()
        self._there: dict[tuple[str, int], None] = {}
        self._listed: dict[str, tuple[float, frozenset[str] | None]] = {}
        self._asking: dict[str, trio.Lock] = {}

    async def must_allow(self, key_id: int, needed: KeyAllowance) -> None:
        """Raise Setback unless the registry of keys allows what is `needed` under the key.

        A decryption waits or fails then, as the operator chose; a ceremony waits.
        """
        allowance = self._known(key_id)
        if allowance is None:
            async with self._wondering:  # one question for all that meet the key at the same time
                allowance = self._known(key_id) or await self._ask(key_id)
        if allowance is KeyAllowance.ALL or allowance is needed:
            return
        reason = self._refusal if needed is KeyAllowance.DECRYPTION_ONLY else Reason.KEY_NOT_ALLOWED
        raise Setback(reason, await self._words(key_id, allowance))

    def _known(self, key_id: int) -> KeyAllowance | None:
        known = self._allowances.get(key_id)
        return known[1] if known is not None and trio.current_time() - known[0] <= ALLOWANCE_FOR else None

    async def _ask(self, key_id: int) -> KeyAllowance:
        """The registry's word; of a key met for the first time, or not activated for all we know, the contract's too.

        A key whose materials the contract gives is active: an activation before our first block was never heard.
        """
        allowance = await self._store.key_allowance(key_id)
        if allowance is KeyAllowance.NOTHING or key_id not in self._met:
            try:
                if await self._gateway.key_digests(key_id):
                    await self._store.key_activated(key_id, "the contract gives its materials (getKeyMaterials)")
                    allowance = await self._store.key_allowance(key_id)
                elif allowance is KeyAllowance.ALL:
                    log.warning(
                        "%s is not activated by the contract and unknown here; taken as active, because the Gateway "
                        "asks for it",
                        ids.short(key_id),
                    )
                _remember(self._met, key_id, None)
            except (DependencyDown, ViewRefused) as fault:
                log.debug("the contract was not asked about %s: %s", ids.short(key_id), fault)
        _remember(self._allowances, key_id, (trio.current_time(), allowance))
        return allowance

    async def _words(self, key_id: int, allowance: KeyAllowance) -> str:
        """What an operator reads about a key that does not allow what was asked for."""
        rows = await self._store.key_registry()
        row = next((one for one in rows if one["kind"] == "key" and int(one["id"], 16) == key_id), None)
        words = f"the registry of keys allows {allowance.value} under {ids.short(key_id)}"
        if row is not None:
            by = f" (set by {row['changed_by']}: {row['reason']})" if row.get("by_operator") else ""
            words = f"{words}, which is {row['state']}{by}"
        return f"{words}; see kmsd keys"

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
        _remember(self._there, (shard.endpoint, key_id), None)

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


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    """Keep `value`; a memory that is full begins anew."""
    if len(memory) >= MAX_KEYS:
        memory.clear()
    memory[key] = value
