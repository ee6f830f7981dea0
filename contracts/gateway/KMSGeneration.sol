// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {KeyDigest, ParamsType} from "../shared/Structs.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {KmsResponses} from "./KmsResponses.sol";

/// Ceremonies of the KMS: preparation and generation of keys, generation of a CRS, PRSS init, reshare to the same set.
contract KMSGeneration is KmsResponses {
    event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, ParamsType paramsType);
    event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
    event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
    event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, ParamsType paramsType);
    event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
    event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);
    event PRSSInit();
    event KeyReshareSameSet(uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, ParamsType paramsType);

    error KeygenOngoing(uint256 keyId);
    error CrsgenOngoing(uint256 crsId);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error EmptyKeyDigests(uint256 keyId);
    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error KeyNotGenerated(uint256 keyId);
    error CrsNotGenerated(uint256 crsId);

    uint256 private constant PREP_BASE = 3 << 248;
    uint256 private constant KEY_BASE = 4 << 248;
    uint256 private constant CRS_BASE = 5 << 248;
    uint256 private constant RESHARE_BASE = 6 << 248;

    bytes32 private constant PREP_TYPEHASH = keccak256("PrepKeygenVerification(uint256 prepKeygenId)");
    bytes32 private constant DIGEST_TYPEHASH = keccak256("KeyDigest(uint8 keyType,bytes digest)");
    bytes32 private constant KEYGEN_TYPEHASH = keccak256(
        "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests)KeyDigest(uint8 keyType,bytes digest)"
    );
    bytes32 private constant CRSGEN_TYPEHASH =
        keccak256("CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest)");

    uint256 private _prepCounter;
    uint256 private _keyCounter;
    uint256 private _crsCounter;
    uint256 private _reshareCounter;
    uint256 private _activeKeyId;
    uint256 private _activeCrsId;
    /// Both ways: preparation to key, key to preparation.
    mapping(uint256 id => uint256) private _pairs;
    mapping(uint256 id => ParamsType) private _paramsType;
    mapping(uint256 id => bool) private _done;
    mapping(uint256 id => bytes32) private _consensusDigest;
    mapping(uint256 id => mapping(bytes32 digest => address[])) private _senders;
    mapping(uint256 id => mapping(address signer => bool)) private _signed;
    mapping(uint256 keyId => KeyDigest[]) private _keyDigests;
    mapping(uint256 crsId => uint256) private _maxBitLength;
    mapping(uint256 crsId => bytes) private _crsDigest;

    constructor(GatewayConfig config) KmsResponses(config) {}

    function initialize() external {
        if (_prepCounter == 0) {
            _prepCounter = PREP_BASE;
            _keyCounter = KEY_BASE;
            _crsCounter = CRS_BASE;
            _reshareCounter = RESHARE_BASE;
        }
    }

    function getVersion() external pure returns (string memory) {
        return "KMSGeneration v0.4.0";
    }

    function keygen(ParamsType paramsType) external onlyGatewayOwner {
        if (_keyCounter != KEY_BASE && !_done[_keyCounter]) revert KeygenOngoing(_keyCounter);
        uint256 prepKeygenId = ++_prepCounter;
        uint256 keyId = ++_keyCounter;
        _pairs[prepKeygenId] = keyId;
        _pairs[keyId] = prepKeygenId;
        _paramsType[prepKeygenId] = paramsType;
        emit PrepKeygenRequest(prepKeygenId, 0, paramsType);
    }

    function prepKeygenResponse(uint256 prepKeygenId, bytes calldata signature) external onlyKmsTxSender {
        if (prepKeygenId == 0 || prepKeygenId > _prepCounter) revert PrepKeygenNotRequested(prepKeygenId);
        bytes32 digest = _digest(keccak256(abi.encode(PREP_TYPEHASH, prepKeygenId)));
        address signer = _kmsSigner(digest, signature);
        if (_signed[prepKeygenId][signer]) revert KmsAlreadySignedForPrepKeygen(prepKeygenId, signer);
        uint256 votes = _record(prepKeygenId, digest, signer);
        emit PrepKeygenResponse(prepKeygenId, signature, msg.sender);
        if (_settles(prepKeygenId, digest, votes)) emit KeygenRequest(prepKeygenId, _pairs[prepKeygenId]);
    }

    function keygenResponse(uint256 keyId, KeyDigest[] calldata keyDigests, bytes calldata signature)
        external
        onlyKmsTxSender
    {
        if (keyId == 0 || keyId > _keyCounter) revert KeygenNotRequested(keyId);
        if (keyDigests.length == 0) revert EmptyKeyDigests(keyId);
        bytes32 digest = _digest(
            keccak256(abi.encode(KEYGEN_TYPEHASH, _pairs[keyId], keyId, _keyDigestsWord(keyDigests)))
        );
        address signer = _kmsSigner(digest, signature);
        if (_signed[keyId][signer]) revert KmsAlreadySignedForKeygen(keyId, signer);
        uint256 votes = _record(keyId, digest, signer);
        emit KeygenResponse(keyId, keyDigests, signature, msg.sender);
        if (_settles(keyId, digest, votes)) {
            for (uint256 i = 0; i < keyDigests.length; i++) _keyDigests[keyId].push(keyDigests[i]);
            _activeKeyId = keyId;
            emit ActivateKey(keyId, _storageUrls(keyId), keyDigests);
        }
    }

    function crsgenRequest(uint256 maxBitLength, ParamsType paramsType) external onlyGatewayOwner {
        if (_crsCounter != CRS_BASE && !_done[_crsCounter]) revert CrsgenOngoing(_crsCounter);
        uint256 crsId = ++_crsCounter;
        _maxBitLength[crsId] = maxBitLength;
        _paramsType[crsId] = paramsType;
        emit CrsgenRequest(crsId, maxBitLength, paramsType);
    }

    function crsgenResponse(uint256 crsId, bytes calldata crsDigest, bytes calldata signature)
        external
        onlyKmsTxSender
    {
        if (crsId == 0 || crsId > _crsCounter) revert CrsgenNotRequested(crsId);
        bytes32 digest = _digest(
            keccak256(abi.encode(CRSGEN_TYPEHASH, crsId, _maxBitLength[crsId], keccak256(crsDigest)))
        );
        address signer = _kmsSigner(digest, signature);
        if (_signed[crsId][signer]) revert KmsAlreadySignedForCrsgen(crsId, signer);
        uint256 votes = _record(crsId, digest, signer);
        emit CrsgenResponse(crsId, crsDigest, signature, msg.sender);
        if (_settles(crsId, digest, votes)) {
            _crsDigest[crsId] = crsDigest;
            _activeCrsId = crsId;
            emit ActivateCrs(crsId, _storageUrls(crsId), crsDigest);
        }
    }

    function prssInit() external onlyGatewayOwner {
        emit PRSSInit();
    }

    /// Takes any finished id, as the real contract does; only a key's id makes sense.
    function keyReshareSameSet(uint256 keyId) external onlyGatewayOwner {
        if (!_done[keyId]) revert KeyNotGenerated(keyId);
        uint256 prepKeygenId = _pairs[keyId];
        uint256 keyReshareId = ++_reshareCounter;
        emit KeyReshareSameSet(prepKeygenId, keyId, keyReshareId, _paramsType[prepKeygenId]);
    }

    function getActiveKeyId() external view returns (uint256) {
        return _activeKeyId;
    }

    function getActiveCrsId() external view returns (uint256) {
        return _activeCrsId;
    }

    function getKeyParamsType(uint256 keyId) external view returns (ParamsType) {
        if (!_done[keyId]) revert KeyNotGenerated(keyId);
        return _paramsType[_pairs[keyId]];
    }

    function getCrsParamsType(uint256 crsId) external view returns (ParamsType) {
        if (!_done[crsId]) revert CrsNotGenerated(crsId);
        return _paramsType[crsId];
    }

    function getKeyMaterials(uint256 keyId) external view returns (string[] memory, KeyDigest[] memory) {
        if (!_done[keyId]) revert KeyNotGenerated(keyId);
        return (_storageUrls(keyId), _keyDigests[keyId]);
    }

    function getCrsMaterials(uint256 crsId) external view returns (string[] memory, bytes memory) {
        if (!_done[crsId]) revert CrsNotGenerated(crsId);
        return (_storageUrls(crsId), _crsDigest[crsId]);
    }

    function getConsensusTxSenders(uint256 requestId) external view returns (address[] memory) {
        return _senders[requestId][_consensusDigest[requestId]];
    }

    function _domainName() internal pure override returns (string memory) {
        return "KMSGeneration";
    }

    /// Records a vote and returns how many there are for the same digest.
    function _record(uint256 id, bytes32 digest, address signer) private returns (uint256) {
        _signed[id][signer] = true;
        address[] storage senders = _senders[id][digest];
        senders.push(msg.sender);
        return senders.length;
    }

    /// Whether this vote is the one that reaches the threshold; if so, remembers it.
    function _settles(uint256 id, bytes32 digest, uint256 votes) private returns (bool) {
        if (_done[id] || votes < CONFIG.getKmsGenThreshold()) return false;
        _done[id] = true;
        _consensusDigest[id] = digest;
        return true;
    }

    /// The storage of everyone who agreed; empty for a node that has been removed since.
    function _storageUrls(uint256 id) private view returns (string[] memory urls) {
        address[] memory senders = _senders[id][_consensusDigest[id]];
        urls = new string[](senders.length);
        for (uint256 i = 0; i < senders.length; i++) urls[i] = CONFIG.getKmsNode(senders[i]).storageUrl;
    }

    function _keyDigestsWord(KeyDigest[] calldata keyDigests) private pure returns (bytes32) {
        bytes32[] memory words = new bytes32[](keyDigests.length);
        for (uint256 i = 0; i < keyDigests.length; i++) {
            words[i] = keccak256(
                abi.encode(DIGEST_TYPEHASH, keyDigests[i].keyType, keccak256(keyDigests[i].digest))
            );
        }
        return keccak256(abi.encodePacked(words));
    }
}
