"""What the operator's options make of buckets and of Predibase."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lorax_serve.server.adapter_setup import build_resolver
from lorax_serve.server.bucket_setup import predibase_settings, s3_settings
from lorax_serve.server.cli import parse
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.errors import StartError, UnservedSource
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.s3_settings import S3Credentials, S3Settings

KEY = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
TEMPORARY_KEY = {**KEY, "AWS_SESSION_TOKEN": "session"}
R2_URL = "https://abc123.r2.cloudflarestorage.com"


def config(*argv: str, **environ: str) -> ServerConfig:
    return parse(argv, environ).server


def test_s3_as_the_operator_says() -> None:
    settings = s3_settings(
        config(
            *("--s3-allow", "models, s3://team/sql/", "--s3-endpoint-url", "https://store:9000"),
            *("--s3-region", "eu-west-3", "--s3-default-bucket", "team"),
            *("--s3-default-folder", "sql", "--s3-session-token", "session"),
            **KEY,
        )
    )
    assert settings == S3Settings(
        allowed=(Location("models", ""), Location("team", "sql")),
        default=Location("team", "sql"),
        endpoint_url="https://store:9000",
        region="eu-west-3",
        credentials=S3Credentials(
            access_key_id="AKID", secret_access_key="secret", session_token="session"
        ),
    )


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("http://store:9000", {}),
        ("http://store:9000", KEY),
        ("http://127.0.0.1:9000", TEMPORARY_KEY),
        ("https://store:9000", TEMPORARY_KEY),
    ],
)
def test_endpoints_that_may_be_asked(url: str, environ: dict[str, str]) -> None:
    """A key only signs; its token is sent, and nobody listens within a machine."""
    argv = ("--s3-allow", "models", "--s3-endpoint-url", url)
    assert s3_settings(config(*argv, **environ)).endpoint_url == url


def test_an_empty_session_token_drops_that_of_the_environment() -> None:
    argv = ("--s3-allow", "models", "--s3-session-token", "")
    credentials = s3_settings(config(*argv, AWS_SESSION_TOKEN="of another key", **KEY)).credentials
    assert credentials is not None
    assert credentials.session_token is None


def test_nothing_is_allowed_and_nothing_signed_unless_the_operator_says_so() -> None:
    assert s3_settings(config(**KEY, PREDIBASE_MODEL_BUCKET="models")).allowed == ()
    assert s3_settings(config("--s3-allow", "models")).credentials is None
    assert not s3_settings(config("--s3-allow", "models")).use_aws_chain
    assert s3_settings(config("--s3-allow", "models", "--s3-aws-chain")).use_aws_chain


def test_the_account_at_cloudflare_goes_before_the_endpoint() -> None:
    environ = {"R2_ACCOUNT_ID": "abc123", "S3_ENDPOINT_URL": "http://x", "AWS_REGION": "eu-west-3"}
    settings = s3_settings(config("--s3-allow", "models", **environ))
    assert (settings.endpoint_url, settings.region) == (R2_URL, "auto")


def test_predibase_reads_the_default_folder_and_s3_does_not() -> None:
    environ = {"PREDIBASE_MODEL_BUCKET": "closed", "PREDIBASE_MODEL_FOLDER": "adapters", **KEY}
    asked = config("--s3-allow", "models", R2_ACCOUNT_ID="abc123", **environ)
    predibase = predibase_settings(asked)
    assert predibase is not None
    assert predibase.gateway_url == "https://api.app.predibase.com"
    assert predibase.s3.allowed == (Location("closed", "adapters"),)
    assert predibase.s3.default == Location("closed", "adapters")
    assert (predibase.s3.endpoint_url, predibase.s3.region) == (R2_URL, "auto")
    assert predibase.s3.credentials == s3_settings(asked).credentials is not None
    assert s3_settings(asked).allowed == (Location("models", ""),)


def test_predibase_where_the_operator_says() -> None:
    predibase = predibase_settings(
        config(
            *("--predibase-allow", "one,two/x", "--s3-default-bucket", "one"),
            *("--predibase-gateway", "https://gateway.example/base"),
        )
    )
    assert predibase is not None
    assert predibase.gateway_url == "https://gateway.example/base"
    assert predibase.s3.allowed == (Location("one", ""), Location("two", "x"))
    assert predibase_settings(config("--s3-allow", "models", PREDIBASE_API_TOKEN="pb")) is None


@pytest.mark.parametrize(
    ("argv", "environ", "sentence"),
    [
        (["--s3-allow", ""], {}, "'' is neither"),
        (["--s3-allow", "models,,x"], {}, "'' is neither"),
        (["--s3-allow", "models/../x"], {}, "is neither a bucket nor"),
        (["--predibase-allow", ""], {}, "'' is neither"),
        (["--adapter-source", "s3"], {}, "needs --s3-allow"),
        (["--adapter-source", "pbase"], {}, "need --predibase-allow or"),
        ([], {"PREDIBASE_GATEWAY_ENDPOINT": "https://x"}, "need --predibase-allow or"),
        (["--predibase-allow", "models", "--predibase-gateway", "http://x"], {}, "https"),
        (["--s3-allow", "m-x", "--s3-default-folder", "x"], {}, "needs --s3-default-bucket"),
        (["--s3-default-bucket", "models/.."], {}, "is neither a bucket nor"),
        (["--s3-allow", "m-x", "--r2-account-id", "a.evil/"], {}, "letters and digits"),
        (["--s3-allow", "m-x"], {"AWS_ACCESS_KEY_ID": "canary"}, "--s3-secret-access-key"),
        (["--s3-allow", "m-x"], {"AWS_SECRET_ACCESS_KEY": "canary"}, "--s3-access-key-id"),
        (["--s3-allow", "m-x"], {"AWS_SESSION_TOKEN": "canary"}, "--s3-access-key-id"),
        (["--s3-allow", "m-x", "--s3-region", "not a region"], {}, "cannot be used"),
        (["--s3-allow", "m-x", "--s3-endpoint-url", "http://s:9"], TEMPORARY_KEY, "is not https"),
        (
            ["--predibase-allow", "m-x", "--s3-endpoint-url", "http://x"],
            TEMPORARY_KEY,
            "is not https",
        ),
        (["--s3-allow", "m-x", "--s3-aws-chain"], {"S3_ENDPOINT_URL": "http://x"}, "is not https"),
    ],
)
def test_what_does_not_go_together_is_a_sentence_at_start(
    argv: list[str], environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    asked = config(*argv, "--cache-dir", str(tmp_path), **environ)
    with pytest.raises(StartError, match=sentence) as refused:
        build_resolver(asked, LocalAdapters(None, allow_absolute=False), has_folder=False)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("opened", "warned"),
    [
        ("closed", True),
        ("closed/adapters", True),
        ("models,closed/adapters/one", True),
        ("models,closed/adapters2", False),
    ],
)
async def test_a_place_that_both_may_read_is_told(
    opened: str, warned: bool, tmp_path: Path
) -> None:
    asked = config(
        *("--cache-dir", str(tmp_path), "--s3-allow", opened),
        *("--predibase-allow", "closed/adapters"),
    )
    with capture_logs() as logs:
        made = build_resolver(asked, LocalAdapters(None, allow_absolute=False), has_folder=False)
    assert made.sources == ("local", "hub", "s3", "pbase")
    told = [line["place"] for line in logs if line["event"] == "predibase_place_is_open"]
    assert told == (["s3://closed/adapters"] if warned else [])
    await made.close()


async def test_without_options_s3_is_not_served(tmp_path: Path) -> None:
    asked = config("--cache-dir", str(tmp_path), **KEY)
    made = build_resolver(asked, LocalAdapters(None, allow_absolute=False), has_folder=False)
    assert made.sources == ("local", "hub")
    for name, source in (("s3://models/sql", "s3"), ("sql/1", "pbase")):
        with pytest.raises(UnservedSource, match="`local` and `hub`"):
            await made.resolve(name, source, "token")
    await made.close()
