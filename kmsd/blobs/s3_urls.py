"""`s3://bucket/prefix` as plain HTTPS requests: boto3 finds the credentials and signs, the download is everybody's.

So objects of S3 come under the same bounds, deadlines and faults as any other. Blocking code (credentials may come from
a metadata service): runs in threads.
"""

import re
import threading
from typing import Any

from kmsd.ports import BlobFault, BlobUnavailable

VALID_FOR = 300
"""Seconds that a signed URL may be used."""
MAX_REGIONS = 256
"""Buckets whose region is remembered."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)


class S3Signer:
    """Signs GETs of S3 objects with the environment's credentials.

    `endpoint` replaces AWS's own (MinIO and the like); `region` is the one to begin with, else the environment's.
    """

    def __init__(self, *, endpoint: str | None, region: str | None, connect: float, read: float) -> None:
        self._endpoint = endpoint
        self._region = region
        self._timeouts = (connect, read)
        self._lock = threading.Lock()
        self._clients: dict[str | None, Any] = {}
        self._regions: dict[str, str] = {}

    def sign(self, bucket: str, key: str) -> str:
        """An HTTPS URL that gives the object for VALID_FOR seconds; it is a secret. Raises BlobUnavailable."""
        if not _BUCKET.fullmatch(bucket):
            raise BlobUnavailable(BlobFault.BAD_URL, "no name of an S3 bucket")
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self._client(self._regions.get(bucket, self._region))
            parameters = {"Bucket": bucket, "Key": key}
            url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=VALID_FOR)
        except (BotoCoreError, ClientError, ValueError) as error:
            raise BlobUnavailable(BlobFault.BAD_URL, f"cannot sign for S3: {type(error).__name__}") from None
        return url

    def learn_region(self, bucket: str, region: str) -> bool:
        """S3 says that `bucket` lives in `region`; True when that is news and signing again may help."""
        if not _REGION.fullmatch(region) or self._regions.get(bucket, self._region) == region:
            return False
        with self._lock:
            if len(self._regions) >= MAX_REGIONS:
                self._regions.clear()
            self._regions[bucket] = region
        return True

    def _client(self, region: str | None) -> Any:
        with self._lock:
            client = self._clients.get(region)
            if client is None:
                import boto3
                from botocore.config import Config

                connect, read = self._timeouts
                config = Config(
                    signature_version="s3v4",
                    connect_timeout=connect,
                    read_timeout=read,
                    retries={"total_max_attempts": 1},
                    s3={"addressing_style": "auto" if self._endpoint is None else "path"},
                )
                client = boto3.session.Session().client(
                    "s3", region_name=region, endpoint_url=self._endpoint, config=config
                )
                self._clients[region] = client
            return client
