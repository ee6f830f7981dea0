"""The Core double as a whole: its methods by name, its polls and questions, its restarts.

Each handler takes the request's bytes and returns the reply message, or the Entry that holds the reply; or raises
Refusal.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from grpclib.const import Status

from kmsd.core.methods import CORE_SERVICE
from kmsd.core.pb.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse, HealthCheckResponseServingStatus
from kmsd.core.pb.kms import v1 as kms
from kmsd.sandbox.core_double_ceremonies import Ceremonies
from kmsd.sandbox.core_double_decryptions import Decryptions
from kmsd.sandbox.core_double_life import Life, Settings
from kmsd.sandbox.core_double_requests import checked, id_of, parse, parse_decryption, parse_id
from kmsd.sandbox.core_double_results import Signer
from kmsd.sandbox.core_double_store import Durable, Entry, Refusal, Store
from kmsd.wire import ids

Handler = Callable[[bytes], Awaitable[Any]]


class CoreDouble:
    """One Core. `signer.centralized` chooses the flavour; `keys` are held from the beginning."""

    def __init__(self, signer: Signer, settings: Settings, state: Path | None, keys: tuple[int, ...] = ()) -> None:
        durable = Durable.load(state)
        durable.keys |= {ids.to_core(key) for key in keys}
        self._life = Life(signer, settings, durable)
        self._decryptions = decryptions = Decryptions(self._life)
        self._ceremonies = ceremonies = Ceremonies(self._life)
        self.handlers: dict[str, Handler] = {
            "PublicDecrypt": decryptions.public_decrypt,
            "UserDecrypt": decryptions.user_decrypt,
            "KeyGenPreproc": ceremonies.preproc,
            "KeyGen": ceremonies.keygen,
            "CrsGen": ceremonies.crsgen,
            "Init": ceremonies.init,
            "InitiateResharing": ceremonies.reshare,
            "GetPublicDecryptionResult": self._poll("public"),
            "GetUserDecryptionResult": self._poll("user"),
            "GetKeyGenPreprocResult": self._poll("preproc"),
            "GetKeyGenResult": self._poll("keygen"),
            "GetCrsGenResult": self._poll("crs"),
            "GetResharingResult": self._poll("reshare"),
            "GetKeyMaterialAvailability": self._availability,
            "GetHealthStatus": self._health_status,
            "GetOperatorPublicKey": self._operator_public_key,
            "Check": self._health,
        }

    @property
    def signer(self) -> Signer:
        """The party."""
        return self._life.signer

    @property
    def settings(self) -> Settings:
        """May be changed at run time."""
        return self._life.settings

    @property
    def keys(self) -> list[str]:
        """Ids of the keys that it holds."""
        return sorted(self._life.durable.keys)

    @property
    def tokens_held(self) -> int:
        """Tokens of running operations."""
        return self._life.limiter.held

    def set_tokens(self, bucket: int) -> None:
        """Change the size of the token pool."""
        self._life.limiter.bucket = bucket

    def stores(self) -> dict[str, Store]:
        """Every store by name."""
        return {
            "public": self._decryptions.public,
            "user": self._decryptions.user,
            "preproc": self._ceremonies.preprocs,
            "keygen": self._ceremonies.keygens,
            "crs": self._ceremonies.crs,
            "reshare": self._ceremonies.reshares,
        }

    def restart(self) -> None:
        """Forget what a restart forgets. Operations that were running never end; calls that wait for them are cut."""
        running = [entry for store in self.stores().values() for entry in store.entries.values() if not entry.finished]
        self._life.restart()
        self._decryptions.restart()
        self._ceremonies.restart()
        for entry in running:
            entry.finish(failed=True)

    def fail_running(self) -> None:
        """Every running operation fails."""
        for store in self.stores().values():
            for entry in store.entries.values():
                if not entry.finished and entry.make is not None:
                    entry.finish(failed=True)

    def burn(self, method: str, data: bytes) -> None:
        """Register the request's id so that it never finishes."""
        if method in ("PublicDecrypt", "UserDecrypt"):
            user = method == "UserDecrypt"
            store = self._decryptions.user if user else self._decryptions.public
            store.add(parse_decryption(data, user=user).request_id, None)
            return
        ceremonies: dict[str, tuple[str, type[Any]]] = {
            "KeyGenPreproc": ("preproc", kms.KeyGenPreprocRequest),
            "KeyGen": ("keygen", kms.KeyGenRequest),
            "CrsGen": ("crs", kms.CrsGenRequest),
            "InitiateResharing": ("reshare", kms.InitiateResharingRequest),
        }
        name, message_type = ceremonies[method]
        self.stores()[name].add(id_of(parse(message_type, data).request_id), None)

    def live(self) -> dict[str, dict[str, int]]:
        """Operations held, by store: all, finished, failed."""
        return {
            name: {
                "all": len(store.entries),
                "finished": sum(entry.finished for entry in store.entries.values()),
                "failed": sum(entry.failed for entry in store.entries.values()),
            }
            for name, store in self.stores().items()
        }

    # -----------------------------------------------------------------------------------------------------------------
    # Polls and questions

    def _poll(self, name: str) -> Handler:
        async def poll(data: bytes) -> Entry:
            number = checked(lambda: parse_id(_request_id_text(data)))
            entry = self.stores()[name].entries.get(number)
            if entry is None:
                raise Refusal(Status.NOT_FOUND)
            if not entry.finished and not await entry.wait(self.settings.long_poll):
                raise Refusal(Status.UNAVAILABLE, "not ready")
            if self.stores()[name].entries.get(number) is not entry and entry.failed:
                raise Refusal(Status.UNAVAILABLE, "connection lost")  # it was forgotten while this call waited
            if entry.result() is None:
                raise Refusal(Status.INTERNAL)
            return entry

        return poll

    async def _availability(self, data: bytes) -> kms.KeyMaterialAvailabilityResponse:
        return kms.KeyMaterialAvailabilityResponse(
            fhe_key_ids=sorted(self._life.durable.keys),
            crs_ids=sorted(self._life.durable.crs),
            preprocessing_ids=[
                ids.to_core(n) for n, entry in self._ceremonies.preprocs.entries.items() if entry.finished
            ],
            storage_info=f"{'Centralized' if self._life.signer.centralized else 'Threshold'} KMS - file",
        )

    async def _health_status(self, data: bytes) -> kms.HealthStatusResponse:
        return kms.HealthStatusResponse(
            my_fhe_key_ids=sorted(self._life.durable.keys),
            my_crs_ids=sorted(self._life.durable.crs),
            my_storage_info="file",
            node_type=kms.NodeType.CENTRALIZED if self._life.signer.centralized else kms.NodeType.THRESHOLD,
        )

    async def _operator_public_key(self, data: bytes) -> kms.OperatorPublicKey:
        return kms.OperatorPublicKey(public_key=self._life.signer.verification_key)

    async def _health(self, data: bytes) -> HealthCheckResponse:
        request = parse(HealthCheckRequest, data)
        if request.service not in ("", CORE_SERVICE):
            raise Refusal(Status.NOT_FOUND, "unknown service")
        serving = (
            HealthCheckResponseServingStatus.SERVING
            if self._ceremonies.serving
            else HealthCheckResponseServingStatus.NOT_SERVING
        )
        return HealthCheckResponse(status=serving)


def _request_id_text(data: bytes) -> str:
    if len(data) == 66 and data[:2] == b"\x0a\x40":
        return data[2:].decode("ascii", "replace")
    text: str = parse(kms.RequestId, data).request_id
    return text
