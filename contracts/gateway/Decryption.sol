// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {Ecdsa} from "../shared/Ecdsa.sol";
import {Eip712} from "../shared/Eip712.sol";
import {FheTypes} from "../shared/FheTypes.sol";
import {
    ContractsInfo,
    CtHandleContractPair,
    DelegationAccounts,
    RequestValidity,
    SnsCiphertextMaterial
} from "../shared/Structs.sol";
import {CiphertextCommits} from "./CiphertextCommits.sol";
import {FeeToken} from "./FeeToken.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {KmsResponses} from "./KmsResponses.sol";
import {MultichainACL} from "./MultichainACL.sol";

/// Public and user decryptions: requests are checked and emitted, answers of KMS nodes are verified and counted.
contract Decryption is KmsResponses {
    event PublicDecryptionRequest(
        uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials, bytes extraData
    );
    event PublicDecryptionResponseCall(
        uint256 indexed decryptionId, bytes decryptedResult, bytes signature, address kmsTxSender, bytes extraData
    );
    event PublicDecryptionResponse(
        uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures, bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );
    event UserDecryptionResponse(
        uint256 indexed decryptionId,
        uint256 indexShare,
        bytes userDecryptedShare,
        bytes signature,
        bytes extraData
    );
    event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);

    error EnforcedPause();
    error EmptyCtHandles();
    error EmptyCtHandleContractPairs();
    error EmptyContractAddresses();
    error ContractAddressesMaxLengthExceeded(uint256 maxLength, uint256 actualLength);
    error ContractNotInContractAddresses(address contractAddress, address[] contractAddresses);
    error UserAddressInContractAddresses(address userAddress, address[] contractAddresses);
    error DelegatorAddressInContractAddresses(address delegatorAddress, address[] contractAddresses);
    error InvalidNullDurationDays();
    error MaxDurationDaysExceeded(uint256 maxValue, uint256 actualValue);
    error StartTimestampInFuture(uint256 currentTimestamp, uint256 startTimestamp);
    error UserDecryptionRequestExpired(uint256 currentTimestamp, RequestValidity requestValidity);
    error CtHandleChainIdDiffersFromContractChainId(bytes32 ctHandle, uint256 chainId, uint256 contractChainId);
    error MaxDecryptionRequestBitSizeExceeded(uint256 maxBitSize, uint256 totalBitSize);
    error InvalidUserSignature(bytes signature);
    error DifferentKeyIdsNotAllowed(
        SnsCiphertextMaterial firstSnsCtMaterial, SnsCiphertextMaterial invalidSnsCtMaterial
    );
    error PublicDecryptNotAllowed(bytes32 ctHandle);
    error AccountNotAllowedToUseCiphertext(bytes32 ctHandle, address accountAddress);
    error UserDecryptionNotDelegated(
        uint256 chainId, address delegator, address delegate, address contractAddress
    );
    error DecryptionNotRequested(uint256 decryptionId);
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);

    /// What the answers to a user's request are signed over.
    struct UserPayload {
        bytes publicKey;
        bytes32[] ctHandles;
    }

    uint256 private constant PUBLIC_BASE = 1 << 248;
    uint256 private constant USER_BASE = 2 << 248;
    uint256 private constant MAX_CONTRACTS = 10;
    uint256 private constant MAX_DAYS = 365;
    uint256 private constant MAX_BITS = 2048;

    bytes32 private constant PUBLIC_TYPEHASH =
        keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)");
    bytes32 private constant USER_TYPEHASH = keccak256(
        "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)"
    );
    bytes32 private constant USER_REQUEST_TYPEHASH = keccak256(
        "UserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,uint256 startTimestamp,uint256 durationDays,bytes extraData)"
    );
    bytes32 private constant DELEGATED_REQUEST_TYPEHASH = keccak256(
        "DelegatedUserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,address delegatorAddress,uint256 startTimestamp,uint256 durationDays,bytes extraData)"
    );

    CiphertextCommits private immutable COMMITS;
    MultichainACL private immutable RIGHTS;
    FeeToken private immutable FEES;
    uint256 private immutable FEE;

    bool private _paused;
    uint256 private _publicCounter;
    uint256 private _userCounter;
    mapping(uint256 id => mapping(address signer => bool)) private _signed;
    mapping(uint256 id => mapping(bytes32 digest => bytes[])) private _signatures;
    /// By digest for public decryptions, all under zero for user decryptions.
    mapping(uint256 id => mapping(bytes32 digest => address[])) private _senders;
    mapping(uint256 id => bool) private _done;
    mapping(uint256 id => bytes32) private _consensusDigest;
    mapping(uint256 id => bytes32[]) private _publicHandles;
    mapping(uint256 id => UserPayload) private _userPayloads;

    modifier whenNotPaused() {
        if (_paused) revert EnforcedPause();
        _;
    }

    constructor(GatewayConfig config, CiphertextCommits commits, MultichainACL rights, FeeToken fees, uint256 fee)
        KmsResponses(config)
    {
        COMMITS = commits;
        RIGHTS = rights;
        FEES = fees;
        FEE = fee;
    }

    function initialize() external {
        if (_publicCounter == 0) {
            _publicCounter = PUBLIC_BASE;
            _userCounter = USER_BASE;
        }
    }

    function getVersion() external pure returns (string memory) {
        return "Decryption v0.3.0";
    }

    function paused() external view returns (bool) {
        return _paused;
    }

    function pause() external onlyGatewayOwner {
        _paused = true;
    }

    function unpause() external onlyGatewayOwner {
        _paused = false;
    }

    function publicDecryptionRequest(bytes32[] calldata ctHandles, bytes calldata extraData) external whenNotPaused {
        if (ctHandles.length == 0) revert EmptyCtHandles();
        uint256 bits = 0;
        for (uint256 i = 0; i < ctHandles.length; i++) {
            bits += FheTypes.bits(ctHandles[i]);
            if (!RIGHTS.isPublicDecryptAllowed(ctHandles[i])) revert PublicDecryptNotAllowed(ctHandles[i]);
        }
        _requireFewBits(bits);
        SnsCiphertextMaterial[] memory materials = _materials(ctHandles);
        uint256 id = ++_publicCounter;
        _publicHandles[id] = ctHandles;
        _collectFee();
        emit PublicDecryptionRequest(id, materials, extraData);
    }

    function publicDecryptionResponse(
        uint256 decryptionId,
        bytes calldata decryptedResult,
        bytes calldata signature,
        bytes calldata extraData
    ) external onlyKmsTxSender {
        if (decryptionId <= PUBLIC_BASE || decryptionId > _publicCounter) revert DecryptionNotRequested(decryptionId);
        bytes32 digest = _digest(
            keccak256(
                abi.encode(
                    PUBLIC_TYPEHASH,
                    Eip712.word(_publicHandles[decryptionId]),
                    keccak256(decryptedResult),
                    keccak256(extraData)
                )
            )
        );
        _recordSigner(decryptionId, digest, signature);
        bytes[] storage signatures = _signatures[decryptionId][digest];
        signatures.push(signature);
        _senders[decryptionId][digest].push(msg.sender);
        emit PublicDecryptionResponseCall(decryptionId, decryptedResult, signature, msg.sender, extraData);
        if (!_done[decryptionId] && signatures.length >= CONFIG.getPublicDecryptionThreshold()) {
            _done[decryptionId] = true;
            _consensusDigest[decryptionId] = digest;
            emit PublicDecryptionResponse(decryptionId, decryptedResult, signatures, extraData);
        }
    }

    function userDecryptionRequest(
        CtHandleContractPair[] calldata ctHandleContractPairs,
        RequestValidity calldata requestValidity,
        ContractsInfo calldata contractsInfo,
        address userAddress,
        bytes calldata publicKey,
        bytes calldata signature,
        bytes calldata extraData
    ) external whenNotPaused {
        _checkContractsAndValidity(contractsInfo, requestValidity);
        if (_contains(contractsInfo.addresses, userAddress)) {
            revert UserAddressInContractAddresses(userAddress, contractsInfo.addresses);
        }
        bytes32[] memory ctHandles = _checkedHandles(ctHandleContractPairs, contractsInfo, userAddress);
        bytes32 structHash = keccak256(
            abi.encode(
                USER_REQUEST_TYPEHASH,
                keccak256(publicKey),
                Eip712.word(contractsInfo.addresses),
                requestValidity.startTimestamp,
                requestValidity.durationDays,
                keccak256(extraData)
            )
        );
        _requireSigner(userAddress, contractsInfo.chainId, structHash, signature);
        _openUserDecryption(ctHandles, userAddress, publicKey, extraData);
    }

    function delegatedUserDecryptionRequest(
        CtHandleContractPair[] calldata ctHandleContractPairs,
        RequestValidity calldata requestValidity,
        DelegationAccounts calldata delegationAccounts,
        ContractsInfo calldata contractsInfo,
        bytes calldata publicKey,
        bytes calldata signature,
        bytes calldata extraData
    ) external whenNotPaused {
        _checkContractsAndValidity(contractsInfo, requestValidity);
        if (_contains(contractsInfo.addresses, delegationAccounts.delegatorAddress)) {
            revert DelegatorAddressInContractAddresses(delegationAccounts.delegatorAddress, contractsInfo.addresses);
        }
        bytes32[] memory ctHandles =
            _checkedHandles(ctHandleContractPairs, contractsInfo, delegationAccounts.delegatorAddress);
        _requireDelegated(contractsInfo, delegationAccounts);
        bytes32 structHash = keccak256(
            abi.encode(
                DELEGATED_REQUEST_TYPEHASH,
                keccak256(publicKey),
                Eip712.word(contractsInfo.addresses),
                delegationAccounts.delegatorAddress,
                requestValidity.startTimestamp,
                requestValidity.durationDays,
                keccak256(extraData)
            )
        );
        _requireSigner(delegationAccounts.delegateAddress, contractsInfo.chainId, structHash, signature);
        _openUserDecryption(ctHandles, delegationAccounts.delegateAddress, publicKey, extraData);
    }

    function userDecryptionResponse(
        uint256 decryptionId,
        bytes calldata userDecryptedShare,
        bytes calldata signature,
        bytes calldata extraData
    ) external onlyKmsTxSender {
        if (decryptionId <= USER_BASE || decryptionId > _userCounter) revert DecryptionNotRequested(decryptionId);
        UserPayload memory payload = _userPayloads[decryptionId];
        bytes32 digest = _digest(
            keccak256(
                abi.encode(
                    USER_TYPEHASH,
                    keccak256(payload.publicKey),
                    Eip712.word(payload.ctHandles),
                    keccak256(userDecryptedShare),
                    keccak256(extraData)
                )
            )
        );
        _recordSigner(decryptionId, digest, signature);
        address[] storage senders = _senders[decryptionId][bytes32(0)];
        senders.push(msg.sender);
        emit UserDecryptionResponse(decryptionId, senders.length - 1, userDecryptedShare, signature, extraData);
        if (!_done[decryptionId] && senders.length >= CONFIG.getUserDecryptionThreshold()) {
            _done[decryptionId] = true;
            emit UserDecryptionResponseThresholdReached(decryptionId);
        }
    }

    function isDecryptionDone(uint256 decryptionId) external view returns (bool) {
        return _done[decryptionId];
    }

    function getDecryptionConsensusTxSenders(uint256 decryptionId) external view returns (address[] memory) {
        return _senders[decryptionId][_consensusDigest[decryptionId]];
    }

    function isPublicDecryptionReady(bytes32[] calldata ctHandles, bytes calldata) external view returns (bool) {
        for (uint256 i = 0; i < ctHandles.length; i++) {
            if (!RIGHTS.isPublicDecryptAllowed(ctHandles[i])) return false;
            if (!COMMITS.isCiphertextMaterialAdded(ctHandles[i])) return false;
        }
        return true;
    }

    function isUserDecryptionReady(
        address userAddress,
        CtHandleContractPair[] calldata ctHandleContractPairs,
        bytes calldata
    ) external view returns (bool) {
        return _ready(userAddress, ctHandleContractPairs);
    }

    function isDelegatedUserDecryptionReady(
        DelegationAccounts calldata delegationAccounts,
        CtHandleContractPair[] calldata ctHandleContractPairs,
        bytes calldata
    ) external view returns (bool) {
        for (uint256 i = 0; i < ctHandleContractPairs.length; i++) {
            bool delegated = RIGHTS.isUserDecryptionDelegated(
                FheTypes.chainId(ctHandleContractPairs[i].ctHandle),
                delegationAccounts.delegatorAddress,
                delegationAccounts.delegateAddress,
                ctHandleContractPairs[i].contractAddress
            );
            if (!delegated) return false;
        }
        return _ready(delegationAccounts.delegatorAddress, ctHandleContractPairs);
    }

    function _domainName() internal pure override returns (string memory) {
        return "Decryption";
    }

    /// One vote a signer and request, right or wrong.
    function _recordSigner(uint256 id, bytes32 digest, bytes calldata signature) private {
        address signer = _kmsSigner(digest, signature);
        if (_signed[id][signer]) revert KmsNodeAlreadySigned(id, signer);
        _signed[id][signer] = true;
    }

    function _openUserDecryption(
        bytes32[] memory ctHandles,
        address userAddress,
        bytes calldata publicKey,
        bytes calldata extraData
    ) private {
        SnsCiphertextMaterial[] memory materials = _materials(ctHandles);
        uint256 id = ++_userCounter;
        _userPayloads[id] = UserPayload(publicKey, ctHandles);
        _collectFee();
        emit UserDecryptionRequest(id, materials, userAddress, publicKey, extraData);
    }

    function _collectFee() private {
        FEES.transferFrom(msg.sender, address(FEES), FEE);
    }

    /// The materials of all handles, which must be of one key.
    function _materials(bytes32[] memory ctHandles) private view returns (SnsCiphertextMaterial[] memory materials) {
        materials = COMMITS.getSnsCiphertextMaterials(ctHandles);
        for (uint256 i = 1; i < materials.length; i++) {
            if (materials[i].keyId != materials[0].keyId) revert DifferentKeyIdsNotAllowed(materials[0], materials[i]);
        }
    }

    function _checkContractsAndValidity(ContractsInfo calldata contractsInfo, RequestValidity calldata validity)
        private
        view
    {
        if (!CONFIG.isHostChainRegistered(contractsInfo.chainId)) revert HostChainNotRegistered(contractsInfo.chainId);
        uint256 contracts = contractsInfo.addresses.length;
        if (contracts == 0) revert EmptyContractAddresses();
        if (contracts > MAX_CONTRACTS) revert ContractAddressesMaxLengthExceeded(MAX_CONTRACTS, contracts);
        if (validity.durationDays == 0) revert InvalidNullDurationDays();
        if (validity.durationDays > MAX_DAYS) revert MaxDurationDaysExceeded(MAX_DAYS, validity.durationDays);
        if (validity.startTimestamp > block.timestamp) {
            revert StartTimestampInFuture(block.timestamp, validity.startTimestamp);
        }
        if (validity.startTimestamp + validity.durationDays * 1 days < block.timestamp) {
            revert UserDecryptionRequestExpired(block.timestamp, validity);
        }
    }

    /// The handles of the pairs, each of which `account` and its contract may use.
    function _checkedHandles(
        CtHandleContractPair[] calldata pairs,
        ContractsInfo calldata contractsInfo,
        address account
    ) private view returns (bytes32[] memory ctHandles) {
        if (pairs.length == 0) revert EmptyCtHandleContractPairs();
        ctHandles = new bytes32[](pairs.length);
        uint256 bits = 0;
        for (uint256 i = 0; i < pairs.length; i++) {
            bytes32 handle = pairs[i].ctHandle;
            address contractAddress = pairs[i].contractAddress;
            uint256 chainId = FheTypes.chainId(handle);
            if (chainId != contractsInfo.chainId) {
                revert CtHandleChainIdDiffersFromContractChainId(handle, chainId, contractsInfo.chainId);
            }
            bits += FheTypes.bits(handle);
            if (!RIGHTS.isAccountAllowed(handle, account)) revert AccountNotAllowedToUseCiphertext(handle, account);
            if (!RIGHTS.isAccountAllowed(handle, contractAddress)) {
                revert AccountNotAllowedToUseCiphertext(handle, contractAddress);
            }
            if (!_contains(contractsInfo.addresses, contractAddress)) {
                revert ContractNotInContractAddresses(contractAddress, contractsInfo.addresses);
            }
            ctHandles[i] = handle;
        }
        _requireFewBits(bits);
    }

    function _requireDelegated(ContractsInfo calldata contractsInfo, DelegationAccounts calldata accounts) private view {
        for (uint256 i = 0; i < contractsInfo.addresses.length; i++) {
            address contractAddress = contractsInfo.addresses[i];
            bool delegated = RIGHTS.isUserDecryptionDelegated(
                contractsInfo.chainId, accounts.delegatorAddress, accounts.delegateAddress, contractAddress
            );
            if (!delegated) {
                revert UserDecryptionNotDelegated(
                    contractsInfo.chainId, accounts.delegatorAddress, accounts.delegateAddress, contractAddress
                );
            }
        }
    }

    /// Users sign for their host chain, not for this one.
    function _requireSigner(address account, uint256 chainId, bytes32 structHash, bytes calldata signature)
        private
        view
    {
        if (Ecdsa.recover(_digestForChain(chainId, structHash), signature) != account) {
            revert InvalidUserSignature(signature);
        }
    }

    function _ready(address account, CtHandleContractPair[] calldata pairs) private view returns (bool) {
        for (uint256 i = 0; i < pairs.length; i++) {
            if (!RIGHTS.isAccountAllowed(pairs[i].ctHandle, account)) return false;
            if (!RIGHTS.isAccountAllowed(pairs[i].ctHandle, pairs[i].contractAddress)) return false;
            if (!COMMITS.isCiphertextMaterialAdded(pairs[i].ctHandle)) return false;
        }
        return pairs.length > 0;
    }

    function _requireFewBits(uint256 bits) private pure {
        if (bits > MAX_BITS) revert MaxDecryptionRequestBitSizeExceeded(MAX_BITS, bits);
    }

    function _contains(address[] calldata addresses, address wanted) private pure returns (bool) {
        for (uint256 i = 0; i < addresses.length; i++) {
            if (addresses[i] == wanted) return true;
        }
        return false;
    }
}
