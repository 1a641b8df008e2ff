"""What the operator sets of S3: no more is used, nothing is told, and mistakes end the start."""

import pytest
from botocore import UNSIGNED

from lorax_serve.server.errors import StartError
from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.s3_settings import S3Settings, make_client, r2_endpoint
from lorax_serve.server.sources.source import NotFoundOrForbidden
from moto_bucket import CREDENTIALS, settings_for


async def test_nothing_allowed_makes_no_client() -> None:
    """And so needs no credentials, no region and no network."""
    source = S3Source(S3Settings(endpoint_url="not a URL"))
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve("s3://bucket/team/sql", None)
    await source.close()


def test_settings_that_make_no_client_end_the_start() -> None:
    with pytest.raises(StartError, match="S3 settings"):
        S3Source(S3Settings(allowed=(Location("bucket", ""),), endpoint_url="not a URL"))
    with pytest.raises(StartError, match="R2"):
        r2_endpoint("evil.example/")
    assert r2_endpoint("abc123") == "https://abc123.r2.cloudflarestorage.com"


def test_the_surroundings_change_nothing_unless_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDAMBIENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    given = make_client(S3Settings(credentials=CREDENTIALS))
    unsigned = make_client(S3Settings())
    assert given._request_signer._credentials.access_key == "AKIDCANARY"
    assert unsigned.meta.config.signature_version is UNSIGNED
    for client in (given, unsigned):
        assert client.meta.region_name == "us-east-1"
        assert client.meta.endpoint_url == "https://s3.amazonaws.com"
        client.close()
    monkeypatch.delenv("AWS_PROFILE")
    chained = make_client(S3Settings(use_aws_chain=True, region="eu-west-3"))
    assert chained._request_signer._credentials.access_key == "AKIDAMBIENT"
    assert chained.meta.region_name == "eu-west-3"
    chained.close()
    both = make_client(S3Settings(use_aws_chain=True, credentials=CREDENTIALS))
    assert both._request_signer._credentials.access_key == "AKIDCANARY"
    assert both.meta.region_name == "eu-west-1"
    both.close()


def test_no_secret_is_in_a_repr() -> None:
    shown = repr(settings_for("http://127.0.0.1:9")) + str(CREDENTIALS)
    assert "canary" not in shown.lower()
