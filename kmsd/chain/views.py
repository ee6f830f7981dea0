"""Views of the Gateway's contracts as typed questions over a `Chain` (wire/gateway.md 2.1).

A contract that reverts, or whose return data cannot be read, is an answer here (None where the view may revert by its
nature, else `ViewRefused`); a chain that does not answer raises DependencyDown. The ACL's views are in `access.py`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from kmsd.chain.chain import Chain
from kmsd.ports import DependencyDown, RpcAnswer
from kmsd.wire.addresses import to_checksum
from kmsd.wire.contract import Function
from kmsd.wire.errors import WireError
from kmsd.wire.v0_11 import views
from kmsd.wire.v0_11.structs import Coprocessor, KmsNode
from kmsd.wire.v0_11.views import Eip712DomainView, KeyMaterials

V = TypeVar("V")

EXECUTION_REVERTED = 3
"""JSON-RPC code of a reverted call, with the revert data in `data`."""


class ViewRefused(Exception):
    """A view that never reverts did, or returned something else: most likely another contract lives at the address."""


async def is_decryption_done(
    chain: Chain, decryption: bytes, decryption_ids: Sequence[int], *, deadline: float
) -> Sequence[bool]:
    """`isDecryptionDone` of each id, in one batch. `decryption` is the contract's address."""
    return await ask(chain, decryption, views.IS_DECRYPTION_DONE, [(one,) for one in decryption_ids], deadline)


async def coprocessors(
    chain: Chain, gateway_config: bytes, tx_senders: Sequence[bytes], *, deadline: float
) -> Sequence[Coprocessor | None]:
    """`getCoprocessor` of each sender, in one batch; None for a sender that is not registered."""
    found = await ask(chain, gateway_config, views.GET_COPROCESSOR, [(one,) for one in tx_senders], deadline)
    return [one if any(one.tx_sender_address) else None for one in found]


async def kms_node(chain: Chain, gateway_config: bytes, tx_sender: bytes, *, deadline: float) -> KmsNode | None:
    """`getKmsNode(tx_sender)`; None for a sender that is not registered."""
    (found,) = await ask(chain, gateway_config, views.GET_KMS_NODE, [(tx_sender,)], deadline)
    return found if any(found.tx_sender_address) else None


async def key_materials(
    chain: Chain, kms_generation: bytes, key_ids: Sequence[int], *, deadline: float
) -> Sequence[KeyMaterials | None]:
    """`getKeyMaterials` of each id, in one batch; None where it reverts, which it does for what is no generated key."""
    calls = [(kms_generation, views.GET_KEY_MATERIALS.encode(key_id)) for key_id in key_ids]
    answers = await chain.call_views(calls, deadline=deadline)
    return [
        None
        if answer.error is not None and is_revert(answer)
        else _returned(chain, views.GET_KEY_MATERIALS, kms_generation, answer)
        for answer in answers
    ]


async def eip712_domain(chain: Chain, contract: bytes, *, deadline: float) -> Eip712DomainView:
    """What a contract says about its own EIP-712 domain (EIP-5267)."""
    (domain,) = await ask(chain, contract, views.EIP712_DOMAIN, [()], deadline)
    return domain


async def ask(
    chain: Chain, contract: bytes, view: Function[Any, V], arguments: Sequence[Sequence[Any]], deadline: float
) -> Sequence[V]:
    """One batch of one view. Raises ViewRefused for the first answer that is none, DependencyDown."""
    calls = [(contract, view.encode(*one)) for one in arguments]
    return [_returned(chain, view, contract, answer) for answer in await chain.call_views(calls, deadline=deadline)]


def is_revert(answer: RpcAnswer) -> bool:
    """True when the contract reverted, as opposed to a node that could not do the call.

    Geth and Nitro say code 3; other nodes use codes of their own but give the revert data as hexadecimal.
    """
    error = answer.error
    if error is None:
        return False
    return error.code == EXECUTION_REVERTED or (isinstance(error.data, str) and error.data.startswith("0x"))


def _returned(chain: Chain, view: Function[Any, V], contract: bytes, answer: RpcAnswer) -> V:
    where = f"{view.name} of {to_checksum(contract)}"
    if answer.error is not None:
        if is_revert(answer):
            raise ViewRefused(f"{where} reverted")
        raise DependencyDown(chain.name, f"{where} failed with code {answer.error.code}")
    try:
        return view.decode_return(answer.result)
    except WireError as error:
        raise ViewRefused(f"{where}: {error}") from None
