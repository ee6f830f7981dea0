// SPDX-License-Identifier: UNLICENSED
pragma solidity ^0.8.24;

struct KmsNode {
    address txSenderAddress;
    address signerAddress;
    string ipAddress;
    string storageUrl;
}

struct Coprocessor {
    address txSenderAddress;
    address signerAddress;
    string s3BucketUrl;
}

struct HostChain {
    uint256 chainId;
    address fhevmExecutorAddress;
    address aclAddress;
    string name;
    string website;
}

struct CiphertextMaterial {
    bytes32 ctHandle;
    uint256 keyId;
    bytes32 ciphertextDigest;
    address[] coprocessorTxSenderAddresses;
}

struct SnsCiphertextMaterial {
    bytes32 ctHandle;
    uint256 keyId;
    bytes32 snsCiphertextDigest;
    address[] coprocessorTxSenderAddresses;
}

struct CtHandleContractPair {
    bytes32 ctHandle;
    address contractAddress;
}

struct RequestValidity {
    uint256 startTimestamp;
    uint256 durationDays;
}

struct ContractsInfo {
    uint256 chainId;
    address[] addresses;
}

struct DelegationAccounts {
    address delegatorAddress;
    address delegateAddress;
}

enum KeyType {
    Server,
    Public
}

enum ParamsType {
    Default,
    Test
}

struct KeyDigest {
    KeyType keyType;
    bytes digest;
}
