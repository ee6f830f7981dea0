// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

/// An owner that is set once, by the initialisation that a proxy's constructor runs.
abstract contract Ownable {
    address private _owner;

    error OwnableUnauthorizedAccount(address account);
    error InvalidInitialization();

    modifier onlyOwner() {
        if (msg.sender != _owner) revert OwnableUnauthorizedAccount(msg.sender);
        _;
    }

    function owner() public view returns (address) {
        return _owner;
    }

    function _setFirstOwner(address first) internal {
        if (_owner != address(0)) revert InvalidInitialization();
        _owner = first;
    }
}
