"""What kmsd calls at a Core: path, reply message, and which lane of connections a call travels on."""

from enum import StrEnum

import attrs
import betterproto2

from kmsd.core.pb.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse
from kmsd.core.pb.kms import v1 as kms
from kmsd.ports import CoreMethod

CORE_SERVICE = "kms_service.v1.CoreServiceEndpoint"
"""Name of the Core's service: prefix of every path, and what the health protocol is asked about."""


class Lane(StrEnum):
    """Calls that must not wait for each other go over connections of their own (decisions.md 14)."""

    SEND = "send"
    """Requests of ordinary size."""
    BULK = "bulk"
    """Requests above `kmsd.core.call.LARGE`, one at a time, in the place of SEND."""
    POLL = "poll"
    """Calls that may block for a minute."""
    CEREMONY = "ceremony"
    """Sends and polls of key management: never behind decryptions, however many of those the Core leaves unanswered."""
    ASK = "ask"
    """Small questions that are answered at once: health, key material."""


@attrs.frozen
class MethodFacts:
    """Path and reply class of one method, the lane it uses, and the method that begins the same operation.

    `operation` groups a send with its poll: a Core that says of one that it is not usable is not asked for the other.
    None for questions that belong to no operation.
    """

    path: str
    reply: type[betterproto2.Message]
    lane: Lane
    operation: CoreMethod | None


DECRYPTIONS = frozenset({CoreMethod.PUBLIC_DECRYPT, CoreMethod.USER_DECRYPT})
"""Operations that come by the thousand."""


def _send(method: CoreMethod, reply: type[betterproto2.Message] = kms.Empty) -> MethodFacts:
    lane = Lane.SEND if method in DECRYPTIONS else Lane.CEREMONY
    return MethodFacts(f"/{CORE_SERVICE}/{method}", reply, lane, method)


def _poll(method: CoreMethod, reply: type[betterproto2.Message], operation: CoreMethod) -> MethodFacts:
    lane = Lane.POLL if operation in DECRYPTIONS else Lane.CEREMONY
    return MethodFacts(f"/{CORE_SERVICE}/{method}", reply, lane, operation)


METHODS: dict[CoreMethod, MethodFacts] = {
    CoreMethod.PUBLIC_DECRYPT: _send(CoreMethod.PUBLIC_DECRYPT),
    CoreMethod.USER_DECRYPT: _send(CoreMethod.USER_DECRYPT),
    CoreMethod.KEY_GEN_PREPROC: _send(CoreMethod.KEY_GEN_PREPROC),
    CoreMethod.KEY_GEN: _send(CoreMethod.KEY_GEN),
    CoreMethod.CRS_GEN: _send(CoreMethod.CRS_GEN),
    CoreMethod.INIT: _send(CoreMethod.INIT),
    CoreMethod.INITIATE_RESHARING: _send(CoreMethod.INITIATE_RESHARING, kms.InitiateResharingResponse),
    CoreMethod.GET_PUBLIC_DECRYPTION_RESULT: _poll(
        CoreMethod.GET_PUBLIC_DECRYPTION_RESULT, kms.PublicDecryptionResponse, CoreMethod.PUBLIC_DECRYPT
    ),
    CoreMethod.GET_USER_DECRYPTION_RESULT: _poll(
        CoreMethod.GET_USER_DECRYPTION_RESULT, kms.UserDecryptionResponse, CoreMethod.USER_DECRYPT
    ),
    CoreMethod.GET_KEY_GEN_PREPROC_RESULT: _poll(
        CoreMethod.GET_KEY_GEN_PREPROC_RESULT, kms.KeyGenPreprocResult, CoreMethod.KEY_GEN_PREPROC
    ),
    CoreMethod.GET_KEY_GEN_RESULT: _poll(CoreMethod.GET_KEY_GEN_RESULT, kms.KeyGenResult, CoreMethod.KEY_GEN),
    CoreMethod.GET_CRS_GEN_RESULT: _poll(CoreMethod.GET_CRS_GEN_RESULT, kms.CrsGenResult, CoreMethod.CRS_GEN),
    CoreMethod.GET_RESHARING_RESULT: _poll(
        CoreMethod.GET_RESHARING_RESULT, kms.ResharingResultResponse, CoreMethod.INITIATE_RESHARING
    ),
    CoreMethod.GET_KEY_MATERIAL_AVAILABILITY: MethodFacts(
        f"/{CORE_SERVICE}/{CoreMethod.GET_KEY_MATERIAL_AVAILABILITY}",
        kms.KeyMaterialAvailabilityResponse,
        Lane.ASK,
        None,
    ),
    CoreMethod.HEALTH: MethodFacts("/grpc.health.v1.Health/Check", HealthCheckResponse, Lane.ASK, None),
}

HEALTH_REQUEST = bytes(HealthCheckRequest(service=CORE_SERVICE))
"""The encoded question of `CoreMethod.HEALTH`."""
