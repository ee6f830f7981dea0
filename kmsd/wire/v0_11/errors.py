"""The custom errors of era v0.11, by name and arguments, and what each means to a sender (wire/gateway.md 3, 6, 7)."""

from enum import StrEnum
from typing import Any, NamedTuple

from kmsd.wire import abi
from kmsd.wire.addresses import to_checksum
from kmsd.wire.contract import CustomError, custom_error
from kmsd.wire.errors import WireError
from kmsd.wire.ids import id_type, short


class RevertClass(StrEnum):
    """What a revert of an answer says, as far as one error alone can say it."""

    ALREADY_RESPONDED = "already responded"
    """This node's answer is on chain: a success, once verified (decisions.md 23)."""
    SENDER_NOT_REGISTERED = "sender not registered"
    """The wallet is no KMS sender of the Gateway; also what an estimate without `from` gives."""
    SIGNER_REFUSED = "signer refused"
    """The recovered signer is unknown or another node's: registration, or the signed bytes differ (decisions.md 24)."""
    NOT_REQUESTED = "not requested"
    """The id is unknown to the contract: wrong chain, or its request was undone by a reorganisation."""
    MALFORMED = "malformed"
    """Signature or arguments can never be accepted."""
    REQUEST = "request"
    """Belongs to requests, the owner's commands or the host chain's ACL; no answer meets it."""
    NO_REASON = "no reason"
    """Empty revert data: bad input of the ABI, or out of gas behind a proxy (wire/gateway.md 3.2)."""
    GENERIC = "generic"
    """`Error(string)` or `Panic(uint256)`."""
    UNKNOWN = "unknown"
    """No error of this era, or its arguments do not decode."""


_DECLARATIONS: dict[RevertClass, tuple[str, ...]] = {
    RevertClass.ALREADY_RESPONDED: (
        "KmsNodeAlreadySigned(uint256 decryptionId, address signer)",
        "KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner)",
        "KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner)",
        "KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner)",
    ),
    RevertClass.SENDER_NOT_REGISTERED: ("NotKmsTxSender(address txSenderAddress)",),
    RevertClass.SIGNER_REFUSED: (
        "NotKmsSigner(address signerAddress)",
        "KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress)",
    ),
    RevertClass.NOT_REQUESTED: (
        "DecryptionNotRequested(uint256 decryptionId)",
        "PrepKeygenNotRequested(uint256 prepKeygenId)",
        "KeygenNotRequested(uint256 keyId)",
        "CrsgenNotRequested(uint256 crsId)",
    ),
    RevertClass.MALFORMED: (
        "ECDSAInvalidSignature()",
        "ECDSAInvalidSignatureLength(uint256 length)",
        "ECDSAInvalidSignatureS(bytes32 s)",
        "EmptyKeyDigests(uint256 keyId)",
    ),
    RevertClass.REQUEST: (
        "AccountNotAllowedToUseCiphertext(bytes32 ctHandle, address accountAddress)",
        "ContractAddressesMaxLengthExceeded(uint256 maxLength, uint256 actualLength)",
        "ContractNotInContractAddresses(address contractAddress, address[] contractAddresses)",
        "CtHandleChainIdDiffersFromContractChainId(bytes32 ctHandle, uint256 chainId, uint256 contractChainId)",
        "DelegatorAddressInContractAddresses(address delegatorAddress, address[] contractAddresses)",
        "DifferentKeyIdsNotAllowed((bytes32,uint256,bytes32,address[]) firstSnsCtMaterial,"
        " (bytes32,uint256,bytes32,address[]) invalidSnsCtMaterial)",
        "EmptyContractAddresses()",
        "EmptyCtHandleContractPairs()",
        "EmptyCtHandles()",
        "EnforcedPause()",
        "HostChainNotRegistered(uint256 chainId)",
        "InvalidFHEType(uint8 fheTypeUint8)",
        "InvalidNullDurationDays()",
        "InvalidUserSignature(bytes signature)",
        "MaxDecryptionRequestBitSizeExceeded(uint256 maxBitSize, uint256 totalBitSize)",
        "MaxDurationDaysExceeded(uint256 maxValue, uint256 actualValue)",
        "PublicDecryptNotAllowed(bytes32 ctHandle)",
        "StartTimestampInFuture(uint256 currentTimestamp, uint256 startTimestamp)",
        "UnsupportedFHEType(uint8 fheType)",
        "UserAddressInContractAddresses(address userAddress, address[] contractAddresses)",
        "UserDecryptionNotDelegated(uint256 chainId, address delegator, address delegate, address contractAddress)",
        "UserDecryptionRequestExpired(uint256 currentTimestamp, (uint256,uint256) requestValidity)",
        "CrsNotGenerated(uint256 crsId)",
        "CrsgenOngoing(uint256 crsId)",
        "KeyNotGenerated(uint256 keyId)",
        "KeygenOngoing(uint256 keyId)",
        "NotGatewayOwner(address sender)",
        "CiphertextMaterialNotFound(bytes32 ctHandle)",
        "CoprocessorAlreadyAdded(bytes32 ctHandle, address txSender)",
        "AlreadyDelegatedOrRevokedInSameBlock(address delegator, address delegate, address contractAddress,"
        " uint256 blockNumber)",
        "DelegateCannotBeContractAddress(address contractAddress)",
        "ExpirationDateAlreadySetToSameValue(address delegator, address delegate, address contractAddress,"
        " uint256 expirationDate)",
        "ExpirationDateBeforeOneHour()",
        "HandlesListIsEmpty()",
        "NotDelegatedYet(address delegator, address delegate, address contractAddress)",
        "SenderCannotBeContractAddress(address contractAddress)",
        "SenderCannotBeDelegate(address delegate)",
        "SenderDenied(address sender)",
        "SenderNotAllowed(address sender)",
    ),
    RevertClass.GENERIC: ("Error(string message)", "Panic(uint256 code)"),
}

ERRORS: dict[str, CustomError] = {
    error.name: error for declarations in _DECLARATIONS.values() for error in map(custom_error, declarations)
}
"""Every error by name; `ERRORS["NotKmsSigner"].encode(address)` is revert data, for doubles."""

CLASS_OF: dict[str, RevertClass] = {
    custom_error(declaration).name: revert_class
    for revert_class, declarations in _DECLARATIONS.items()
    for declaration in declarations
}
"""What each error means, by name."""

_BY_SELECTOR: dict[bytes, CustomError] = {error.selector: error for error in ERRORS.values()}


class RevertReason(NamedTuple):
    """Why a call reverted: the error's name, its arguments, and the data it was decoded from.

    `name` is empty where there was no data, and `0x` and the selector for an unknown error or one whose arguments do
    not decode; `args` is empty then.
    """

    name: str
    args: tuple[Any, ...]
    data: bytes

    @property
    def revert_class(self) -> RevertClass:
        """What it says to a sender."""
        if not self.data:
            return RevertClass.NO_REASON
        return CLASS_OF.get(self.name, RevertClass.UNKNOWN)

    def __str__(self) -> str:
        """For operators: `KmsNodeAlreadySigned(decryptionId=pub:12, signer=0x…)`; one line of printable ASCII."""
        if not self.data:
            return "reverted without a reason"
        error = ERRORS.get(self.name)
        if error is None:
            return f"unknown error {self.name} ({len(self.data)} bytes)"
        names = (name or str(position) for position, name in enumerate(error.argument_names))
        return f"{self.name}({', '.join(f'{n}={_text(v)}' for n, v in zip(names, self.args, strict=True))})"


def decode_revert(data: bytes) -> RevertReason:
    """The reason in revert data. Never raises: data that no error of this era explains are a reason of their own."""
    error = _BY_SELECTOR.get(data[:4])
    if error is not None:
        try:
            return RevertReason(error.name, abi.decode_fields(error.arguments, data[4:]), data)
        except WireError:
            pass
    return RevertReason(f"0x{data[:4].hex()}" if data else "", (), data)


_MAX_TEXT = 200


def _text(value: Any) -> str:
    """An argument for operators: ids in short form, addresses with checksum, long values cut."""
    if isinstance(value, bytes):
        return to_checksum(value) if len(value) == 20 else _cut(f"0x{value.hex()}")
    if isinstance(value, str):
        return _cut(ascii(value))
    if isinstance(value, tuple):
        return _cut(f"[{', '.join(map(_text, value))}]")
    return short(value) if isinstance(value, int) and id_type(value) is not None else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
