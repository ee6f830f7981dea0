// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

interface PublicDecryptions {
    function publicDecryptionRequest(bytes32[] calldata ctHandles, bytes calldata extraData) external;
}

/// Many public decryption requests in one transaction, through the real function.
contract RequestBurst {
    PublicDecryptions private immutable DECRYPTION;

    constructor(PublicDecryptions decryption) {
        DECRYPTION = decryption;
    }

    /// One request of one handle each, `rounds` times over the list.
    function request(bytes32[] calldata ctHandles, uint256 rounds, bytes calldata extraData) external {
        bytes32[] memory one = new bytes32[](1);
        for (uint256 round = 0; round < rounds; round++) {
            for (uint256 i = 0; i < ctHandles.length; i++) {
                one[0] = ctHandles[i];
                DECRYPTION.publicDecryptionRequest(one, extraData);
            }
        }
    }
}
