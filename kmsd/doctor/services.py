"""The doctor's look at the Core, the buckets and the wallet's key."""

from collections.abc import Sequence

from kmsd.core.methods import HEALTH_REQUEST
from kmsd.doctor.findings import Finding, error, ok, warning
from kmsd.observe.probes import SERVING
from kmsd.ports import BlobFault, Blobs, BlobUnavailable, Core, CoreMethod, Shard, StatusCode, Wallet, WalletUnavailable
from kmsd.wire.addresses import to_checksum

ABSENT = "0" * 64
"""Name of an object that no bucket has: asking for it shows that the bucket answers."""
ALIVE = (BlobFault.NOT_FOUND, BlobFault.HTTP_STATUS)
"""Answers that show a bucket to be there; S3 says 403 for what is not there when listing is forbidden."""


async def core(one: Core, shard: Shard, deadline: float) -> Sequence[Finding]:
    """Does the shard answer, does it serve, which keys does it hold?"""
    subject = f"core {shard.endpoint}"
    health = await one.call(shard, CoreMethod.HEALTH, HEALTH_REQUEST, deadline=deadline)
    if health.status in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
        words = f"{health.status.name}: {health.detail}"
        return [error(subject, words, "Start the KMS Core, or correct kms_core_endpoints. Requests wait for it.")]
    found = []
    if health.status is not StatusCode.OK:
        found.append(ok(subject, f"answers; says {health.status.name} about its health"))
    elif int(health.message.status) != SERVING:
        remedy = "Normal before PRSS Init and on some versions; else see the Core's log."
        found.append(warning(subject, "answers, but does not call itself SERVING", remedy))
    else:
        found.append(ok(subject, "serving"))
    keys = await one.call(shard, CoreMethod.GET_KEY_MATERIAL_AVAILABILITY, b"", deadline=deadline)
    if keys.status is StatusCode.OK:
        names = [name[:4] + "…" + name[-8:] for name in keys.message.fhe_key_ids]
        found.append(ok(f"{subject} keys", f"{len(names)}: {', '.join(names)}" if names else "none yet"))
    else:
        found.append(
            ok(f"{subject} keys", f"cannot be asked ({keys.status.name}); decryptions are sent without asking")
        )
    return found


async def bucket(blobs: Blobs, url: str) -> Sequence[Finding]:
    """Does the bucket answer at all?"""
    subject = f"bucket {url}"
    try:
        await blobs.get(f"{url.rstrip('/')}/{ABSENT}", max_bytes=1024, patience=10.0)
    except BlobUnavailable as fault:
        if fault.fault in ALIVE:
            return [ok(subject, "answers")]
        remedy = (
            "allow_private_buckets permits it." if fault.fault is BlobFault.FORBIDDEN_ADDRESS else "Tell its operator."
        )
        return [warning(subject, str(fault), f"Others are asked instead. {remedy}")]
    return [ok(subject, "answers")]


async def signing_key(wallet: Wallet) -> Sequence[Finding]:
    """Can the transaction key sign?"""
    try:
        address = await wallet.learn_address()
        await wallet.sign([bytes(32)])
    except WalletUnavailable as unavailable:
        return [error("transaction key", unavailable.detail, "Responses wait until it can sign.")]
    where = "AWS KMS" if wallet.is_remote else "this machine"
    return [ok("transaction key", f"{to_checksum(address)}, signs on {where}")]
