// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {Ownable} from "../shared/Ownable.sol";
import {Coprocessor, HostChain, KmsNode} from "../shared/Structs.sol";

/// Who takes part: KMS nodes, coprocessors, host chains, and how many of them make a decision.
contract GatewayConfig is Ownable {
    event UpdateKmsNodes(
        KmsNode[] newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    );
    event UpdateCoprocessors(Coprocessor[] newCoprocessors, uint256 newCoprocessorThreshold);
    event AddHostChain(HostChain hostChain);

    error EmptyKmsNodes();
    error EmptyCoprocessors();
    error NullKmsNodeTxSender();
    error NullKmsNodeSigner();
    error KmsTxSenderAlreadyRegistered(address txSenderAddress);
    error KmsSignerAlreadyRegistered(address signerAddress);
    error InvalidHighMpcThreshold(uint256 mpcThreshold, uint256 nKmsNodes);
    error InvalidThreshold(uint256 threshold, uint256 nMembers);
    error CoprocessorTxSenderAlreadyRegistered(address txSenderAddress);
    error HostChainAlreadyRegistered(uint256 chainId);

    address[] private _kmsTxSenders;
    address[] private _kmsSigners;
    mapping(address txSender => bool) private _isKmsTxSender;
    mapping(address signer => bool) private _isKmsSigner;
    mapping(address txSender => KmsNode) private _kmsNodes;
    uint256 private _mpcThreshold;
    uint256 private _publicDecryptionThreshold;
    uint256 private _userDecryptionThreshold;
    uint256 private _kmsGenThreshold;

    address[] private _coprocessorTxSenders;
    address[] private _coprocessorSigners;
    mapping(address txSender => bool) private _isCoprocessorTxSender;
    mapping(address txSender => Coprocessor) private _coprocessors;
    uint256 private _coprocessorThreshold;

    HostChain[] private _hostChains;
    mapping(uint256 chainId => bool) private _isHostChain;

    function initialize(address firstOwner) external {
        _setFirstOwner(firstOwner);
    }

    function getVersion() external pure returns (string memory) {
        return "GatewayConfig v0.4.0";
    }

    /// Replaces the whole set.
    function updateKmsNodes(
        KmsNode[] calldata newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    ) external onlyOwner {
        uint256 n = newKmsNodes.length;
        if (n == 0) revert EmptyKmsNodes();
        _removeKmsNodes();
        for (uint256 i = 0; i < n; i++) _addKmsNode(newKmsNodes[i]);
        if (newMpcThreshold >= n) revert InvalidHighMpcThreshold(newMpcThreshold, n);
        _mpcThreshold = newMpcThreshold;
        _publicDecryptionThreshold = _checked(newPublicDecryptionThreshold, n);
        _userDecryptionThreshold = _checked(newUserDecryptionThreshold, n);
        _kmsGenThreshold = _checked(newKmsGenThreshold, n);
        emit UpdateKmsNodes(
            newKmsNodes, newMpcThreshold, newPublicDecryptionThreshold, newUserDecryptionThreshold, newKmsGenThreshold
        );
    }

    /// Replaces the whole set.
    function updateCoprocessors(Coprocessor[] calldata newCoprocessors, uint256 newCoprocessorThreshold)
        external
        onlyOwner
    {
        uint256 n = newCoprocessors.length;
        if (n == 0) revert EmptyCoprocessors();
        for (uint256 i = 0; i < _coprocessorTxSenders.length; i++) {
            delete _isCoprocessorTxSender[_coprocessorTxSenders[i]];
            delete _coprocessors[_coprocessorTxSenders[i]];
        }
        delete _coprocessorTxSenders;
        delete _coprocessorSigners;
        for (uint256 i = 0; i < n; i++) {
            address txSender = newCoprocessors[i].txSenderAddress;
            if (_isCoprocessorTxSender[txSender]) revert CoprocessorTxSenderAlreadyRegistered(txSender);
            _isCoprocessorTxSender[txSender] = true;
            _coprocessors[txSender] = newCoprocessors[i];
            _coprocessorTxSenders.push(txSender);
            _coprocessorSigners.push(newCoprocessors[i].signerAddress);
        }
        _coprocessorThreshold = _checked(newCoprocessorThreshold, n);
        emit UpdateCoprocessors(newCoprocessors, newCoprocessorThreshold);
    }

    function addHostChain(HostChain calldata hostChain) external onlyOwner {
        if (_isHostChain[hostChain.chainId]) revert HostChainAlreadyRegistered(hostChain.chainId);
        _isHostChain[hostChain.chainId] = true;
        _hostChains.push(hostChain);
        emit AddHostChain(hostChain);
    }

    function updateMpcThreshold(uint256 threshold) external onlyOwner {
        if (threshold >= _kmsTxSenders.length) revert InvalidHighMpcThreshold(threshold, _kmsTxSenders.length);
        _mpcThreshold = threshold;
    }

    function updatePublicDecryptionThreshold(uint256 threshold) external onlyOwner {
        _publicDecryptionThreshold = _checked(threshold, _kmsTxSenders.length);
    }

    function updateUserDecryptionThreshold(uint256 threshold) external onlyOwner {
        _userDecryptionThreshold = _checked(threshold, _kmsTxSenders.length);
    }

    function updateKmsGenThreshold(uint256 threshold) external onlyOwner {
        _kmsGenThreshold = _checked(threshold, _kmsTxSenders.length);
    }

    function isKmsTxSender(address txSenderAddress) external view returns (bool) {
        return _isKmsTxSender[txSenderAddress];
    }

    function isKmsSigner(address signerAddress) external view returns (bool) {
        return _isKmsSigner[signerAddress];
    }

    function isCoprocessorTxSender(address txSenderAddress) external view returns (bool) {
        return _isCoprocessorTxSender[txSenderAddress];
    }

    function isHostChainRegistered(uint256 chainId) external view returns (bool) {
        return _isHostChain[chainId];
    }

    function getKmsNode(address kmsTxSenderAddress) external view returns (KmsNode memory) {
        return _kmsNodes[kmsTxSenderAddress];
    }

    function getCoprocessor(address coprocessorTxSenderAddress) external view returns (Coprocessor memory) {
        return _coprocessors[coprocessorTxSenderAddress];
    }

    function getHostChain(uint256 index) external view returns (HostChain memory) {
        return _hostChains[index];
    }

    function getHostChains() external view returns (HostChain[] memory) {
        return _hostChains;
    }

    function getKmsTxSenders() external view returns (address[] memory) {
        return _kmsTxSenders;
    }

    function getKmsSigners() external view returns (address[] memory) {
        return _kmsSigners;
    }

    function getCoprocessorTxSenders() external view returns (address[] memory) {
        return _coprocessorTxSenders;
    }

    function getCoprocessorSigners() external view returns (address[] memory) {
        return _coprocessorSigners;
    }

    function getMpcThreshold() external view returns (uint256) {
        return _mpcThreshold;
    }

    function getPublicDecryptionThreshold() external view returns (uint256) {
        return _publicDecryptionThreshold;
    }

    function getUserDecryptionThreshold() external view returns (uint256) {
        return _userDecryptionThreshold;
    }

    function getKmsGenThreshold() external view returns (uint256) {
        return _kmsGenThreshold;
    }

    function getCoprocessorMajorityThreshold() external view returns (uint256) {
        return _coprocessorThreshold;
    }

    function _removeKmsNodes() private {
        for (uint256 i = 0; i < _kmsTxSenders.length; i++) {
            delete _isKmsTxSender[_kmsTxSenders[i]];
            delete _kmsNodes[_kmsTxSenders[i]];
            delete _isKmsSigner[_kmsSigners[i]];
        }
        delete _kmsTxSenders;
        delete _kmsSigners;
    }

    function _addKmsNode(KmsNode calldata node) private {
        if (node.txSenderAddress == address(0)) revert NullKmsNodeTxSender();
        if (node.signerAddress == address(0)) revert NullKmsNodeSigner();
        if (_isKmsTxSender[node.txSenderAddress]) revert KmsTxSenderAlreadyRegistered(node.txSenderAddress);
        if (_isKmsSigner[node.signerAddress]) revert KmsSignerAlreadyRegistered(node.signerAddress);
        _isKmsTxSender[node.txSenderAddress] = true;
        _isKmsSigner[node.signerAddress] = true;
        _kmsNodes[node.txSenderAddress] = node;
        _kmsTxSenders.push(node.txSenderAddress);
        _kmsSigners.push(node.signerAddress);
    }

    function _checked(uint256 threshold, uint256 n) private pure returns (uint256) {
        if (threshold == 0 || threshold > n) revert InvalidThreshold(threshold, n);
        return threshold;
    }
}
