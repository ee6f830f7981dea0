// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

/// Domains without salt, and the words of the dynamic types.
library Eip712 {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    function separator(string memory name, uint256 chainId, address verifyingContract) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256(bytes(name)), keccak256("1"), chainId, verifyingContract)
        );
    }

    function digest(bytes32 domainSeparator, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator, structHash));
    }

    function word(bytes32[] memory values) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(values));
    }

    function word(address[] memory values) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(values));
    }
}

/// A contract that signatures are made for.
abstract contract Eip712Domain {
    function _domainName() internal pure virtual returns (string memory);

    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (0x0f, _domainName(), "1", block.chainid, address(this), bytes32(0), new uint256[](0));
    }

    /// The digest to sign for a struct, in the domain of this chain.
    function _digest(bytes32 structHash) internal view returns (bytes32) {
        return _digestForChain(block.chainid, structHash);
    }

    /// The digest to sign for a struct, in the domain of another chain but of this contract.
    function _digestForChain(uint256 chainId, bytes32 structHash) internal view returns (bytes32) {
        return Eip712.digest(Eip712.separator(_domainName(), chainId, address(this)), structHash);
    }
}
