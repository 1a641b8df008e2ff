"""What the operator says about buckets, and the boto3 client that follows from it alone."""

import os
from dataclasses import dataclass, field
from typing import Any, Final

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from lorax_serve.server.errors import StartError
from lorax_serve.server.sources.s3_location import Location

_DEFAULT_REGION: Final = "us-east-1"  # which stores other than Amazon's accept, or ignore


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Credentials:
    """Nothing secret is in its repr."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Settings:
    """Times in seconds.

    `credentials` go before the chain. With neither requests are not signed: public buckets only.
    """

    allowed: tuple[Location, ...] = ()  # nothing else is ever asked for
    default: Location | None = None  # where names without s3:// lie
    endpoint_url: str | None = None  # None: Amazon's
    region: str | None = None
    credentials: S3Credentials | None = None
    use_aws_chain: bool = False  # environment, ~/.aws, container, instance: boto3's own search
    with_templates: bool = False  # chat templates are among an adapter's files
    connect_seconds: float = 5.0
    stall_seconds: float = 20.0  # how long a bucket may be silent
    resolve_seconds: float = 30.0
    download_seconds: float = 600.0  # of one file
    threads_per_bucket: int = 8


def r2_endpoint(account_id: str) -> str:
    """Cloudflare R2's address for an account. Raises StartError."""
    if not (account_id.isascii() and account_id.isalnum()):
        raise StartError("An R2 account id has letters and digits only.")
    return f"https://{account_id}.r2.cloudflarestorage.com"


def make_client(settings: S3Settings) -> Any:
    """Blocks: reads botocore's data files and, with `use_aws_chain`, whatever that chain reads.

    Its retries are off, ours count. Raises StartError.
    """
    try:
        return _session(settings).client(
            "s3", endpoint_url=settings.endpoint_url, config=_config(settings)
        )
    except (BotoCoreError, ValueError) as error:
        raise StartError(f"The S3 settings cannot be used: {type(error).__name__}.") from None


def _session(settings: S3Settings) -> boto3.session.Session:
    keys = {} if settings.credentials is None else _keys(settings.credentials)
    if settings.use_aws_chain:
        return boto3.session.Session(region_name=settings.region, **keys)
    # Neither AWS_PROFILE nor ~/.aws may change what the operator wrote down here.
    core = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    core.set_config_variable("config_file", os.devnull)
    core.set_config_variable("credentials_file", os.devnull)
    region = settings.region or _DEFAULT_REGION
    return boto3.session.Session(botocore_session=core, region_name=region, **keys)


def _keys(credentials: S3Credentials) -> dict[str, Any]:
    return {
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token,
    }


def _config(settings: S3Settings) -> Config:
    num_buckets = len({place.bucket for place in settings.allowed})
    signed = settings.use_aws_chain or settings.credentials is not None
    return Config(
        signature_version=None if signed else UNSIGNED,
        connect_timeout=settings.connect_seconds,
        read_timeout=settings.stall_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=max(1, num_buckets) * settings.threads_per_bucket,
        # Elsewhere than at Amazon buckets rarely have host names of their own.
        s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        ignore_configured_endpoint_urls=True,
        # Parts of files have no checksum; lengths, ETags and SHA-256 are compared here.
        response_checksum_validation="when_required",
    )
