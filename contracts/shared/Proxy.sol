// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

/// A proxy with the implementation's address at the slot of ERC-1967. Every call is forwarded.
contract Proxy {
    /// keccak256("eip1967.proxy.implementation") - 1
    bytes32 private constant SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;

    event Upgraded(address indexed implementation);

    constructor(address implementation, bytes memory initialisation) payable {
        assembly {
            sstore(SLOT, implementation)
        }
        emit Upgraded(implementation);
        if (initialisation.length > 0) {
            (bool ok, bytes memory answer) = implementation.delegatecall(initialisation);
            if (!ok) {
                assembly {
                    revert(add(answer, 32), mload(answer))
                }
            }
        }
    }

    fallback() external payable {
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), sload(SLOT), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            switch ok
            case 0 { revert(0, returndatasize()) }
            default { return(0, returndatasize()) }
        }
    }
}
