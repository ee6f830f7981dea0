// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {GatewayConfig} from "./GatewayConfig.sol";

/// Votes of coprocessors, one a statement and sender. A statement holds once a majority has made it.
abstract contract CoprocessorVotes {
    GatewayConfig internal immutable CONFIG;

    error NotCoprocessorTxSender(address txSenderAddress);
    error NotGatewayOwner(address sender);
    error HostChainNotRegistered(uint256 chainId);

    mapping(bytes32 statement => address[]) internal _voters;
    mapping(bytes32 statement => bool) internal _holds;

    modifier onlyGatewayOwner() {
        if (msg.sender != CONFIG.owner()) revert NotGatewayOwner(msg.sender);
        _;
    }

    modifier onlyCoprocessorTxSender() {
        if (!CONFIG.isCoprocessorTxSender(msg.sender)) revert NotCoprocessorTxSender(msg.sender);
        _;
    }

    constructor(GatewayConfig config) {
        CONFIG = config;
    }

    /// Records a vote; true when it is the one that makes the statement hold.
    function _vote(bytes32 statement, address sender) internal returns (bool) {
        address[] storage voters = _voters[statement];
        voters.push(sender);
        if (_holds[statement] || voters.length < CONFIG.getCoprocessorMajorityThreshold()) return false;
        _holds[statement] = true;
        return true;
    }

    function _requireHostChain(uint256 chainId) internal view {
        if (!CONFIG.isHostChainRegistered(chainId)) revert HostChainNotRegistered(chainId);
    }
}
