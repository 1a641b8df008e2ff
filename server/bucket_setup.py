"""Which buckets are read, and how, as the operator's options say."""

from dataclasses import replace
from typing import Final

import structlog

from lorax_serve.server.config import AdapterSource, ServerConfig
from lorax_serve.server.errors import StartError
from lorax_serve.server.secret import Secret
from lorax_serve.server.sources.addresses import keeps_secrets
from lorax_serve.server.sources.predibase import PredibaseSettings
from lorax_serve.server.sources.predibase_gateway import DEFAULT_GATEWAY
from lorax_serve.server.sources.s3_location import Location, parse_place
from lorax_serve.server.sources.s3_settings import S3Credentials, S3Settings, r2_endpoint

log = structlog.get_logger(__name__)

_R2_REGION: Final = "auto"


def s3_settings(config: ServerConfig) -> S3Settings:
    """For the source that is everybody's. Raises StartError."""
    if config.s3_allow is None:
        if config.adapter_source is AdapterSource.S3:
            raise StartError("--adapter-source s3 needs --s3-allow.")
        return S3Settings()
    return replace(_reading(config), allowed=_places(config.s3_allow))


def predibase_settings(config: ServerConfig) -> PredibaseSettings | None:
    """None where the operator has not said where these adapters lie. Raises StartError."""
    if not config.serves_predibase:
        if config.predibase_gateway is None and config.adapter_source is not AdapterSource.PBASE:
            return None
        raise StartError("Predibase's adapters need --predibase-allow or --s3-default-bucket.")
    reading = _reading(config)
    if config.predibase_allow is not None:
        allowed = _places(config.predibase_allow)
    else:
        allowed = () if reading.default is None else (reading.default,)
    return PredibaseSettings(
        s3=replace(reading, allowed=allowed),
        gateway_url=config.predibase_gateway or DEFAULT_GATEWAY,
    )


def warn_of_open_places(everybodys: S3Settings, predibase: PredibaseSettings) -> None:
    """Where a token is asked for by one source, and by the other none."""
    for closed in predibase.s3.allowed:
        if any(place.contains(closed) or closed.contains(place) for place in everybodys.allowed):
            log.warning("predibase_place_is_open", place=str(closed))


def _reading(config: ServerConfig) -> S3Settings:
    """All but what may be read."""
    endpoint_url, region = config.s3_endpoint_url, config.s3_region
    if config.r2_account_id is not None:
        endpoint_url, region = r2_endpoint(config.r2_account_id), _R2_REGION
    credentials = _credentials(config)
    # A key only signs; it is a temporary key's token that would be sent as it is.
    has_token = credentials is not None and credentials.session_token is not None
    sends_token = has_token or config.s3_aws_chain
    if endpoint_url is not None and sends_token and not keeps_secrets(endpoint_url):
        raise StartError(
            f"--s3-endpoint-url {endpoint_url} is not https: a temporary key's token would cross "
            "the network unencrypted. http is for keys without one, or for this machine alone."
        )
    return S3Settings(
        default=_default_place(config),
        endpoint_url=endpoint_url,
        region=region,
        credentials=credentials,
        use_aws_chain=config.s3_aws_chain,
        with_templates=config.adapter_chat_templates,
    )


def _places(text: str) -> tuple[Location, ...]:
    return tuple(parse_place(place.strip()) for place in text.split(","))


def _default_place(config: ServerConfig) -> Location | None:
    bucket, folder = config.s3_default_bucket, config.s3_default_folder
    if bucket is not None:
        return parse_place(bucket if folder is None else f"{bucket}/{folder}")
    if folder is not None:
        raise StartError("--s3-default-folder needs --s3-default-bucket.")
    return None


def _credentials(config: ServerConfig) -> S3Credentials | None:
    match config.s3_access_key_id, config.s3_secret_access_key, config.s3_session_token:
        case None, None, None:
            return None
        case Secret(key_id), Secret(secret), token:
            # An empty one drops what the environment holds for another key.
            session_token = token.revealed or None if token is not None else None
            return S3Credentials(
                access_key_id=key_id, secret_access_key=secret, session_token=session_token
            )
    raise StartError("A key for buckets needs --s3-access-key-id and --s3-secret-access-key.")
