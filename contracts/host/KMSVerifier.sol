// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {Ecdsa} from "../shared/Ecdsa.sol";
import {Eip712} from "../shared/Eip712.sol";
import {Ownable} from "../shared/Ownable.sol";

/// What a dapp asks on the host chain: whether a threshold of KMS signers signed this public decryption. The signatures
/// are those that the Gateway's Decryption contract collected, so the domain is that contract's.
contract KMSVerifier is Ownable {
    error EmptyDecryptionProof();
    error DeserializingDecryptionProofFail();
    error KMSInvalidSigner(address invalidSigner);
    error KMSSignatureThresholdNotReached(uint256 numSignatures);
    error KMSZeroSignature();
    error ThresholdIsNull();
    error ThresholdIsAboveNumberOfSigners();

    bytes32 private constant PUBLIC_TYPEHASH =
        keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)");

    bytes32 private immutable SEPARATOR;

    address[] private _signers;
    mapping(address signer => bool) private _isSigner;
    uint256 private _threshold;

    constructor(address gatewayDecryption, uint256 gatewayChainId) {
        SEPARATOR = Eip712.separator("Decryption", gatewayChainId, gatewayDecryption);
    }

    function initialize(address firstOwner, address[] calldata signers, uint256 threshold) external {
        _setFirstOwner(firstOwner);
        _define(signers, threshold);
    }

    function defineNewContext(address[] calldata signers, uint256 threshold) external onlyOwner {
        for (uint256 i = 0; i < _signers.length; i++) delete _isSigner[_signers[i]];
        _define(signers, threshold);
    }

    function getKmsSigners() external view returns (address[] memory) {
        return _signers;
    }

    function getThreshold() external view returns (uint256) {
        return _threshold;
    }

    /// `decryptionProof` is one byte for the number of signatures, the signatures of 65 bytes, then the extra data that
    /// they cover. Reverts unless at least a threshold of different registered signers signed.
    function verifyDecryptionEIP712KMSSignatures(
        bytes32[] calldata handlesList,
        bytes calldata decryptedResult,
        bytes calldata decryptionProof
    ) external view returns (bool) {
        if (decryptionProof.length == 0) revert EmptyDecryptionProof();
        uint256 count = uint8(decryptionProof[0]);
        uint256 end = 1 + 65 * count;
        if (decryptionProof.length < end) revert DeserializingDecryptionProofFail();
        if (count == 0) revert KMSZeroSignature();
        bytes32 digest = Eip712.digest(
            SEPARATOR,
            keccak256(
                abi.encode(
                    PUBLIC_TYPEHASH,
                    Eip712.word(handlesList),
                    keccak256(decryptedResult),
                    keccak256(decryptionProof[end:])
                )
            )
        );
        address[] memory seen = new address[](count);
        uint256 different = 0;
        for (uint256 i = 0; i < count; i++) {
            address signer = Ecdsa.recover(digest, decryptionProof[1 + 65 * i:1 + 65 * (i + 1)]);
            if (!_isSigner[signer]) revert KMSInvalidSigner(signer);
            if (!_among(seen, different, signer)) seen[different++] = signer;
        }
        if (different < _threshold) revert KMSSignatureThresholdNotReached(different);
        return true;
    }

    function _define(address[] calldata signers, uint256 threshold) private {
        if (threshold == 0) revert ThresholdIsNull();
        if (threshold > signers.length) revert ThresholdIsAboveNumberOfSigners();
        _signers = signers;
        _threshold = threshold;
        for (uint256 i = 0; i < signers.length; i++) _isSigner[signers[i]] = true;
    }

    function _among(address[] memory seen, uint256 length, address wanted) private pure returns (bool) {
        for (uint256 i = 0; i < length; i++) {
            if (seen[i] == wanted) return true;
        }
        return false;
    }
}
