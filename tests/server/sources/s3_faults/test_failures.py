"""Row 20 of the fault matrix for buckets: sources that refuse, fail or are not there."""

import logging
import traceback
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lorax_serve.server.sources.s3 import S3Source
from lorax_serve.server.sources.source import NotFoundOrForbidden, SourceError, SourceUnavailable
from moto_bucket import BUCKET, NewSource, settings_for
from unruly_adapter import ADAPTER_ID, WEIGHTS, fetch_weights
from unruly_bucket import QUICK, Fault, UnrulyBucket, silence, status, whole

TOKEN = "token-canary"


async def test_outside_the_allowed_places_nothing_is_asked(
    bucket: UnrulyBucket, new_source: NewSource
) -> None:
    source = new_source(f"{BUCKET}/team/other")
    for adapter_id in (ADAPTER_ID, "s3://bucket/x", f"{BUCKET}/team", f"{BUCKET}/team/other2"):
        with pytest.raises(NotFoundOrForbidden):
            await source.resolve(adapter_id, "token")
    assert bucket.num_connections == 0
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve(f"{BUCKET}/team/other", None)
    assert bucket.num_connections == 1  # so the count does count


@pytest.mark.parametrize("kind", ["list", "head", "get"])
@pytest.mark.parametrize(
    ("fault", "error", "num_tries"),
    [
        (status(401), NotFoundOrForbidden, 1),
        (status(403, "AccessDenied"), NotFoundOrForbidden, 1),
        (status(404, "NoSuchKey"), NotFoundOrForbidden, 1),
        (status(429, "TooManyRequests"), SourceUnavailable, 3),
        (status(500, "InternalError"), SourceUnavailable, 3),
        (status(503, "SlowDown"), SourceUnavailable, 3),
        (lambda answer, content: answer.reset(), SourceUnavailable, 3),
        (silence, SourceUnavailable, 3),
    ],
)
async def test_failures_before_the_first_byte(
    bucket: UnrulyBucket,
    impatient: S3Source,
    tmp_path: Path,
    kind: str,
    fault: Fault,
    error: type[SourceError],
    num_tries: int,
) -> None:
    adapter = await impatient.resolve(ADAPTER_ID, None)
    bucket.requests.clear()
    bucket.faults[kind] = [fault] * 3
    with pytest.raises(error):
        if kind == "get":
            await fetch_weights(impatient, adapter, tmp_path / "w")
        else:
            await impatient.resolve(ADAPTER_ID, None)
    assert bucket.count(kind) == num_tries
    bucket.faults.clear()
    assert await impatient.resolve(ADAPTER_ID, None) == adapter
    assert await fetch_weights(impatient, adapter, tmp_path / "w") == WEIGHTS


async def test_one_failure_is_survived(
    bucket: UnrulyBucket, source: S3Source, tmp_path: Path
) -> None:
    for kind in ("list", "head", "get"):
        bucket.faults[kind] = [status(503)]
    adapter = await source.resolve(ADAPTER_ID, None)
    assert await fetch_weights(source, adapter, tmp_path / "w") == WEIGHTS


async def test_retry_after_is_passed_on(bucket: UnrulyBucket, source: S3Source) -> None:
    bucket.faults["list"] = [status(429, Retry_After="17")]
    with pytest.raises(SourceUnavailable) as refused:
        await source.resolve(ADAPTER_ID, None)
    assert refused.value.retry_after == 17
    assert bucket.count("list") == 1  # longer than a caller is kept waiting


async def test_a_wrong_setting_is_nobodys_missing_adapter_either(
    bucket: UnrulyBucket, source: S3Source
) -> None:
    bucket.faults["list"] = [status(400, "InvalidRequest")] * 3
    with pytest.raises(SourceUnavailable, match="InvalidRequest"):
        await source.resolve(ADAPTER_ID, None)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
async def test_the_operators_own_mistake_is_nobodys_missing_adapter(
    bucket: UnrulyBucket, source: S3Source, code: str
) -> None:
    bucket.faults["list"] = [status(403, code)] * 3
    with pytest.raises(SourceUnavailable, match=code):
        await source.resolve(ADAPTER_ID, None)


async def test_a_refusal_is_told_to_the_operator_alone(
    bucket: UnrulyBucket, source: S3Source
) -> None:
    bucket.faults["list"] = [status(403, "AccessDenied")]
    with capture_logs() as logs, pytest.raises(NotFoundOrForbidden):
        await source.resolve(ADAPTER_ID, None)
    (line,) = logs
    assert (line["event"], line["bucket"]) == ("bucket_refused", BUCKET)
    assert line["reason"] == "status 403, AccessDenied"


async def test_a_bucket_that_cannot_be_reached(bucket: UnrulyBucket, source: S3Source) -> None:
    """Refused, no such host, no TLS there."""
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid", "https" + bucket.url[4:]):
        broken = S3Source(settings_for(url), QUICK)
        with pytest.raises(SourceUnavailable):
            await broken.resolve(ADAPTER_ID, None)
        await broken.close()


async def test_no_secret_gets_out(
    bucket: UnrulyBucket,
    impatient: S3Source,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.WARNING)  # as the server sets it for libraries
    faults: list[Fault] = [
        status(403, "AccessDenied"),
        status(500),
        status(400, "secret-canary"),
        silence,
        lambda answer, content: answer.reset(),
        whole(b"secret-canary"),
    ]
    said: list[str] = [repr(impatient), repr(vars(impatient))]
    adapter = await impatient.resolve(ADAPTER_ID, TOKEN)
    with capture_logs() as logs:
        for kind in ("list", "head", "get"):
            for fault in faults:
                bucket.faults[kind] = [fault] * 3
                try:
                    await impatient.resolve(ADAPTER_ID, TOKEN)
                    await impatient.download(
                        adapter, adapter.files[1], tmp_path / "w", TOKEN, [].append
                    )
                except SourceError as error:
                    said += [repr(error), *traceback.format_exception(error)]
    said += [str(logs), caplog.text, *capfd.readouterr()]
    assert len(logs) >= 1 and len(said) > 20
    assert "canary" not in "".join(said).lower()
