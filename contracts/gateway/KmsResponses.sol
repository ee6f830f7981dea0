// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {Ecdsa} from "../shared/Ecdsa.sol";
import {Eip712Domain} from "../shared/Eip712.sol";
import {GatewayConfig} from "./GatewayConfig.sol";

/// The checks that every answer of a KMS node passes: its sender is registered, its signer is, and both are one node.
abstract contract KmsResponses is Eip712Domain {
    GatewayConfig internal immutable CONFIG;

    error NotKmsTxSender(address txSenderAddress);
    error NotKmsSigner(address signerAddress);
    error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
    error NotGatewayOwner(address sender);
    error HostChainNotRegistered(uint256 chainId);

    modifier onlyKmsTxSender() {
        if (!CONFIG.isKmsTxSender(msg.sender)) revert NotKmsTxSender(msg.sender);
        _;
    }

    modifier onlyGatewayOwner() {
        if (msg.sender != CONFIG.owner()) revert NotGatewayOwner(msg.sender);
        _;
    }

    constructor(GatewayConfig config) {
        CONFIG = config;
    }

    /// The signer of `digest`. Reverts unless it is the signer of the node that sends this transaction.
    function _kmsSigner(bytes32 digest, bytes memory signature) internal view returns (address signer) {
        signer = Ecdsa.recover(digest, signature);
        if (!CONFIG.isKmsSigner(signer)) revert NotKmsSigner(signer);
        if (CONFIG.getKmsNode(msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
    }
}
