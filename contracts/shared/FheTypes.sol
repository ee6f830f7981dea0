// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

/// What a handle says about itself: bytes 22 to 29 are the host chain, byte 30 the type.
library FheTypes {
    uint8 internal constant LAST = 83;

    error InvalidFHEType(uint8 fheTypeUint8);
    error UnsupportedFHEType(uint8 fheType);

    function chainId(bytes32 handle) internal pure returns (uint256) {
        return uint64(uint256(handle) >> 16);
    }

    /// The bits that the handle's value counts for in a request. Reverts for a type that cannot be decrypted.
    function bits(bytes32 handle) internal pure returns (uint256) {
        uint8 kind = uint8(handle[30]);
        if (kind > LAST) revert InvalidFHEType(kind);
        if (kind == 0) return 2;
        if (kind == 2) return 8;
        if (kind == 3) return 16;
        if (kind == 4) return 32;
        if (kind == 5) return 64;
        if (kind == 6) return 128;
        if (kind == 7) return 160;
        if (kind == 8) return 256;
        revert UnsupportedFHEType(kind);
    }
}
