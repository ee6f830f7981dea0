// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {FheTypes} from "../shared/FheTypes.sol";
import {CiphertextMaterial, SnsCiphertextMaterial} from "../shared/Structs.sol";
import {CoprocessorVotes} from "./CoprocessorVotes.sol";
import {GatewayConfig} from "./GatewayConfig.sol";

/// Key and digests of each handle's ciphertexts, agreed on by coprocessors.
contract CiphertextCommits is CoprocessorVotes {
    event AddCiphertextMaterial(
        bytes32 indexed ctHandle,
        uint256 keyId,
        bytes32 ciphertextDigest,
        bytes32 snsCiphertextDigest,
        address coprocessorTxSender
    );
    event AddCiphertextMaterialConsensus(
        bytes32 indexed ctHandle,
        uint256 keyId,
        bytes32 ciphertextDigest,
        bytes32 snsCiphertextDigest,
        address[] coprocessorTxSenders
    );

    error CoprocessorAlreadyAdded(bytes32 ctHandle, address txSender);
    error CiphertextMaterialNotFound(bytes32 ctHandle);
    error EmptyCtHandles();

    struct Material {
        uint256 keyId;
        bytes32 ciphertextDigest;
        bytes32 snsCiphertextDigest;
        bytes32 statement;
    }

    mapping(bytes32 ctHandle => mapping(address txSender => bool)) private _added;
    mapping(bytes32 ctHandle => Material) private _materials;

    constructor(GatewayConfig config) CoprocessorVotes(config) {}

    function getVersion() external pure returns (string memory) {
        return "CiphertextCommits v0.2.0";
    }

    function addCiphertextMaterial(
        bytes32 ctHandle,
        uint256 keyId,
        bytes32 ciphertextDigest,
        bytes32 snsCiphertextDigest
    ) external onlyCoprocessorTxSender {
        _add(ctHandle, keyId, ciphertextDigest, snsCiphertextDigest, msg.sender);
    }

    /// Every coprocessor of `txSenders` adds the same material of every handle.
    function sandboxAddCiphertextMaterials(
        bytes32[] calldata ctHandles,
        uint256 keyId,
        bytes32[] calldata snsCiphertextDigests,
        address[] calldata txSenders
    ) external onlyGatewayOwner {
        for (uint256 i = 0; i < ctHandles.length; i++) {
            for (uint256 j = 0; j < txSenders.length; j++) {
                bytes32 digest = snsCiphertextDigests[i];
                _add(ctHandles[i], keyId, keccak256(abi.encode(digest)), digest, txSenders[j]);
            }
        }
    }

    function isCiphertextMaterialAdded(bytes32 ctHandle) public view returns (bool) {
        return _materials[ctHandle].statement != bytes32(0);
    }

    function getCiphertextMaterials(bytes32[] calldata ctHandles)
        external
        view
        returns (CiphertextMaterial[] memory ctMaterials)
    {
        ctMaterials = new CiphertextMaterial[](ctHandles.length);
        for (uint256 i = 0; i < ctHandles.length; i++) {
            Material memory m = _material(ctHandles[i]);
            ctMaterials[i] = CiphertextMaterial(ctHandles[i], m.keyId, m.ciphertextDigest, _voters[m.statement]);
        }
    }

    function getSnsCiphertextMaterials(bytes32[] calldata ctHandles)
        external
        view
        returns (SnsCiphertextMaterial[] memory snsCtMaterials)
    {
        snsCtMaterials = new SnsCiphertextMaterial[](ctHandles.length);
        for (uint256 i = 0; i < ctHandles.length; i++) {
            Material memory m = _material(ctHandles[i]);
            snsCtMaterials[i] = SnsCiphertextMaterial(ctHandles[i], m.keyId, m.snsCiphertextDigest, _voters[m.statement]);
        }
    }

    function _material(bytes32 ctHandle) private view returns (Material memory) {
        if (!isCiphertextMaterialAdded(ctHandle)) revert CiphertextMaterialNotFound(ctHandle);
        return _materials[ctHandle];
    }

    function _add(bytes32 ctHandle, uint256 keyId, bytes32 digest, bytes32 snsDigest, address sender) private {
        _requireHostChain(FheTypes.chainId(ctHandle));
        if (_added[ctHandle][sender]) revert CoprocessorAlreadyAdded(ctHandle, sender);
        _added[ctHandle][sender] = true;
        bytes32 statement = keccak256(abi.encode(ctHandle, keyId, digest, snsDigest));
        bool holds = _vote(statement, sender);
        emit AddCiphertextMaterial(ctHandle, keyId, digest, snsDigest, sender);
        if (holds && !isCiphertextMaterialAdded(ctHandle)) {
            _materials[ctHandle] = Material(keyId, digest, snsDigest, statement);
            emit AddCiphertextMaterialConsensus(ctHandle, keyId, digest, snsDigest, _voters[statement]);
        }
    }
}
