// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

import {Ownable} from "../shared/Ownable.sol";

/// Rights on handles on the host chain.
contract ACL is Ownable {
    event Allowed(address indexed caller, address indexed account, bytes32 handle);
    event AllowedForDecryption(address indexed caller, bytes32[] handlesList);
    event DelegatedForUserDecryption(
        address indexed delegator,
        address indexed delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 oldExpirationDate,
        uint64 newExpirationDate
    );
    event RevokedDelegationForUserDecryption(
        address indexed delegator,
        address indexed delegate,
        address contractAddress,
        uint64 delegationCounter,
        uint64 oldExpirationDate
    );

    error AlreadyDelegatedOrRevokedInSameBlock(
        address delegator, address delegate, address contractAddress, uint256 blockNumber
    );
    error DelegateCannotBeContractAddress(address contractAddress);
    error ExpirationDateAlreadySetToSameValue(
        address delegator, address delegate, address contractAddress, uint256 expirationDate
    );
    error ExpirationDateBeforeOneHour();
    error HandlesListIsEmpty();
    error NotDelegatedYet(address delegator, address delegate, address contractAddress);
    error SenderCannotBeContractAddress(address contractAddress);
    error SenderCannotBeDelegate(address delegate);
    error SenderDenied(address sender);
    error SenderNotAllowed(address sender);

    struct Delegation {
        uint64 expirationDate;
        uint64 lastBlock;
        uint64 counter;
    }

    mapping(bytes32 handle => mapping(address account => bool)) private _persisted;
    mapping(bytes32 handle => bool) private _forDecryption;
    mapping(address account => bool) private _denied;
    mapping(address delegator => mapping(address delegate => mapping(address contractAddress => Delegation))) private
        _delegations;

    function initialize(address firstOwner) external {
        _setFirstOwner(firstOwner);
    }

    function getVersion() external pure returns (string memory) {
        return "ACL v0.2.0";
    }

    function allow(bytes32 handle, address account) external {
        _requireNotDenied();
        if (!isAllowed(handle, msg.sender)) revert SenderNotAllowed(msg.sender);
        _allow(handle, account);
    }

    /// For the rest of this transaction only. On the network the FHE executor may do this for a new handle; here the
    /// owner may.
    function allowTransient(bytes32 handle, address account) external {
        if (msg.sender != owner()) {
            _requireNotDenied();
            if (!isAllowed(handle, msg.sender)) revert SenderNotAllowed(msg.sender);
        }
        bytes32 slot = keccak256(abi.encode(handle, account));
        assembly {
            tstore(slot, 1)
        }
    }

    function allowForDecryption(bytes32[] calldata handlesList) external {
        if (handlesList.length == 0) revert HandlesListIsEmpty();
        _requireNotDenied();
        for (uint256 i = 0; i < handlesList.length; i++) {
            if (!isAllowed(handlesList[i], msg.sender)) revert SenderNotAllowed(msg.sender);
            _forDecryption[handlesList[i]] = true;
        }
        emit AllowedForDecryption(msg.sender, handlesList);
    }

    /// Each account gets a right on each handle, as if the executor had made them and their contracts shared them.
    function sandboxAllow(bytes32[] calldata handles, address[] calldata accounts, bool forDecryption)
        external
        onlyOwner
    {
        for (uint256 i = 0; i < handles.length; i++) {
            for (uint256 j = 0; j < accounts.length; j++) _allow(handles[i], accounts[j]);
            if (forDecryption) _forDecryption[handles[i]] = true;
        }
        if (forDecryption) emit AllowedForDecryption(msg.sender, handles);
    }

    /// Takes all rights back, which no function of the network can do.
    function sandboxForbid(bytes32[] calldata handles, address[] calldata accounts) external onlyOwner {
        for (uint256 i = 0; i < handles.length; i++) {
            for (uint256 j = 0; j < accounts.length; j++) delete _persisted[handles[i]][accounts[j]];
            delete _forDecryption[handles[i]];
        }
    }

    function delegateForUserDecryption(address delegate, address contractAddress, uint64 expirationDate) external {
        _requireNotDenied();
        if (expirationDate < block.timestamp + 1 hours) revert ExpirationDateBeforeOneHour();
        if (contractAddress == msg.sender) revert SenderCannotBeContractAddress(contractAddress);
        if (delegate == msg.sender) revert SenderCannotBeDelegate(delegate);
        if (delegate == contractAddress) revert DelegateCannotBeContractAddress(contractAddress);
        Delegation storage delegation = _touched(delegate, contractAddress);
        uint64 old = delegation.expirationDate;
        if (old == expirationDate) {
            revert ExpirationDateAlreadySetToSameValue(msg.sender, delegate, contractAddress, old);
        }
        delegation.expirationDate = expirationDate;
        emit DelegatedForUserDecryption(
            msg.sender, delegate, contractAddress, delegation.counter, old, expirationDate
        );
    }

    function revokeDelegationForUserDecryption(address delegate, address contractAddress) external {
        _requireNotDenied();
        Delegation storage delegation = _touched(delegate, contractAddress);
        uint64 old = delegation.expirationDate;
        if (old == 0) revert NotDelegatedYet(msg.sender, delegate, contractAddress);
        delegation.expirationDate = 0;
        emit RevokedDelegationForUserDecryption(msg.sender, delegate, contractAddress, delegation.counter, old);
    }

    function blockAccount(address account) external onlyOwner {
        _denied[account] = true;
    }

    function unblockAccount(address account) external onlyOwner {
        _denied[account] = false;
    }

    function isAllowed(bytes32 handle, address account) public view returns (bool) {
        return allowedTransient(handle, account) || _persisted[handle][account];
    }

    function allowedTransient(bytes32 handle, address account) public view returns (bool allowed) {
        bytes32 slot = keccak256(abi.encode(handle, account));
        assembly {
            allowed := tload(slot)
        }
    }

    function persistAllowed(bytes32 handle, address account) external view returns (bool) {
        return _persisted[handle][account];
    }

    function isAllowedForDecryption(bytes32 handle) external view returns (bool) {
        return _forDecryption[handle];
    }

    function isAccountDenied(address account) external view returns (bool) {
        return _denied[account];
    }

    function isHandleDelegatedForUserDecryption(
        address delegator,
        address delegate,
        address contractAddress,
        bytes32 handle
    ) external view returns (bool) {
        return _persisted[handle][delegator] && _persisted[handle][contractAddress]
            && _delegations[delegator][delegate][contractAddress].expirationDate >= block.timestamp;
    }

    function getUserDecryptionDelegationExpirationDate(address delegator, address delegate, address contractAddress)
        external
        view
        returns (uint64)
    {
        return _delegations[delegator][delegate][contractAddress].expirationDate;
    }

    function _allow(bytes32 handle, address account) private {
        _persisted[handle][account] = true;
        emit Allowed(msg.sender, account, handle);
    }

    /// A delegation may change once a block.
    function _touched(address delegate, address contractAddress) private returns (Delegation storage delegation) {
        delegation = _delegations[msg.sender][delegate][contractAddress];
        if (delegation.lastBlock == block.number) {
            revert AlreadyDelegatedOrRevokedInSameBlock(msg.sender, delegate, contractAddress, block.number);
        }
        delegation.lastBlock = uint64(block.number);
        delegation.counter++;
    }

    function _requireNotDenied() private view {
        if (_denied[msg.sender]) revert SenderDenied(msg.sender);
    }
}
