// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {FheTypes} from "../shared/FheTypes.sol";
import {CoprocessorVotes} from "./CoprocessorVotes.sol";
import {GatewayConfig} from "./GatewayConfig.sol";

/// Rights on handles and delegations, as coprocessors report them from the host chains.
contract MultichainACL is CoprocessorVotes {
    event AllowAccount(bytes32 indexed ctHandle, address accountAddress);
    event AllowPublicDecrypt(bytes32 indexed ctHandle);
    event DelegateUserDecryptionConsensus(
        uint256 indexed chainId,
        address indexed delegator,
        address indexed delegate,
        address contractAddress,
        uint64 expirationDate
    );

    error CoprocessorAlreadyVoted(bytes32 statement, address txSender);

    mapping(bytes32 statement => mapping(address txSender => bool)) private _voted;
    mapping(bytes32 delegation => uint64) private _expirations;

    constructor(GatewayConfig config) CoprocessorVotes(config) {}

    function getVersion() external pure returns (string memory) {
        return "MultichainACL v0.2.0";
    }

    function allowPublicDecrypt(bytes32 ctHandle, bytes calldata) external onlyCoprocessorTxSender {
        _allowPublicDecrypt(ctHandle, msg.sender);
    }

    function allowAccount(bytes32 ctHandle, address accountAddress, bytes calldata) external onlyCoprocessorTxSender {
        _allowAccount(ctHandle, accountAddress, msg.sender);
    }

    function delegateUserDecryption(
        uint256 chainId,
        address delegator,
        address delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 expirationDate
    ) external onlyCoprocessorTxSender {
        _requireHostChain(chainId);
        bytes32 key = keccak256(abi.encode(chainId, delegator, delegate, contractAddress));
        if (_cast(keccak256(abi.encode(key, delegationCounter, expirationDate)), msg.sender)) {
            _expirations[key] = expirationDate;
            emit DelegateUserDecryptionConsensus(chainId, delegator, delegate, contractAddress, expirationDate);
        }
    }

    function sandboxAllowPublicDecrypt(bytes32[] calldata ctHandles, address[] calldata txSenders)
        external
        onlyGatewayOwner
    {
        for (uint256 i = 0; i < ctHandles.length; i++) {
            for (uint256 j = 0; j < txSenders.length; j++) _allowPublicDecrypt(ctHandles[i], txSenders[j]);
        }
    }

    function sandboxAllowAccounts(
        bytes32[] calldata ctHandles,
        address[] calldata accounts,
        address[] calldata txSenders
    ) external onlyGatewayOwner {
        for (uint256 i = 0; i < ctHandles.length; i++) {
            for (uint256 j = 0; j < txSenders.length; j++) _allowAccount(ctHandles[i], accounts[i], txSenders[j]);
        }
    }

    function isPublicDecryptAllowed(bytes32 ctHandle) external view returns (bool) {
        return _holds[_publicStatement(ctHandle)];
    }

    function isAccountAllowed(bytes32 ctHandle, address accountAddress) external view returns (bool) {
        return _holds[_accountStatement(ctHandle, accountAddress)];
    }

    function isUserDecryptionDelegated(uint256 chainId, address delegator, address delegate, address contractAddress)
        external
        view
        returns (bool)
    {
        return _expirations[keccak256(abi.encode(chainId, delegator, delegate, contractAddress))] >= block.timestamp;
    }

    function _allowPublicDecrypt(bytes32 ctHandle, address sender) private {
        _requireHostChain(FheTypes.chainId(ctHandle));
        if (_cast(_publicStatement(ctHandle), sender)) emit AllowPublicDecrypt(ctHandle);
    }

    function _allowAccount(bytes32 ctHandle, address account, address sender) private {
        _requireHostChain(FheTypes.chainId(ctHandle));
        if (_cast(_accountStatement(ctHandle, account), sender)) emit AllowAccount(ctHandle, account);
    }

    function _cast(bytes32 statement, address sender) private returns (bool) {
        if (_voted[statement][sender]) revert CoprocessorAlreadyVoted(statement, sender);
        _voted[statement][sender] = true;
        return _vote(statement, sender);
    }

    function _publicStatement(bytes32 ctHandle) private pure returns (bytes32) {
        return keccak256(abi.encode("public", ctHandle));
    }

    function _accountStatement(bytes32 ctHandle, address account) private pure returns (bytes32) {
        return keccak256(abi.encode("account", ctHandle, account));
    }
}
