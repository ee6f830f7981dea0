// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

/// The token that fees are paid in, as far as a listener can see it: a Transfer log before the request's event.
/// Payers have credit without end.
contract FeeToken {
    event Transfer(address indexed from, address indexed to, uint256 value);

    mapping(address account => uint256) public spent;
    mapping(address account => uint256) public balanceOf;

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        spent[from] += value;
        balanceOf[to] += value;
        emit Transfer(from, to, value);
        return true;
    }
}
