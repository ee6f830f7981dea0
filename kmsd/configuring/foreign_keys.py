"""Keys that operators bring along from the reference connector and that mean nothing here, or were never right."""

from collections.abc import Mapping

OBSOLETE: Mapping[str, str] = {
    "grpc_request_retries": "busy and unreachable Cores are asked again with back-off, without a limit",
    "s3_ciphertext_retrieval_retries": "buckets are asked again with back-off until decryption_time_budget",
    "s3_ciphertext_retrieval_attempts": "buckets are asked again with back-off until decryption_time_budget",
    "grpc_poll_interval": "the Core holds a poll until the result is there",
    "max_consecutive_polling_errors": "the listener never gives up",
    "operation_recovery_run_interval": "rows of a dead daemon are taken back within 15 s",
    "operation_under_process_timeout": "rows of a dead daemon are taken back within 15 s, those of a live one never",
    "decryption_expiry": "see decryption_time_budget and gc_decryption_expiry",
    "s3_config": "buckets come from GatewayConfig; see s3_fallback_urls",
    "kms_verifier_address": "not needed",
    "erc1271_gas_limit": "belongs to later versions of the protocol",
    "s3_head_timeout": "belongs to later versions of the protocol",
    "s3_max_concurrent_heads_per_bucket": "belongs to later versions of the protocol",
    "ethereum_url": "belongs to later versions of the protocol",
    "ethereum_chain_id": "belongs to later versions of the protocol",
    "ethereum_acl_address": "a host chain is configured by host_chains",
    "polygon_url": "a host chain is configured by host_chains",
    "polygon_chain_id": "a host chain is configured by host_chains",
    "polygon_acl_address": "a host chain is configured by host_chains",
    "bnb_testnet_url": "a host chain is configured by host_chains",
    "bnb_testnet_chain_id": "a host chain is configured by host_chains",
    "bnb_testnet_acl_address": "a host chain is configured by host_chains",
    "protocol_config_contract": "belongs to later versions of the protocol",
    "ethereum_tx_required_confirmations": "belongs to later versions of the protocol",
    "ethereum_tx_get_receipt_timeout": "belongs to later versions of the protocol",
}
"""Keys of other versions of the reference that mean nothing here: accepted with one notice that says why."""

MISNAMED: Mapping[str, str] = {
    "kms_generation_polling": "key_management_polling",
    "kms_from_block_number": "kms_operation_from_block_number",
    "decryption_domain_version": "decryption_contract.domain_version",
    "decryption_domain_name": "decryption_contract.domain_name",
    "decryption_address": "decryption_contract.address",
}
"""Names that the reference's samples give wrongly, with the right one."""
