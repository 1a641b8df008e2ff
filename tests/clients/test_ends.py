"""A server that is full, that stops, or that loses its engine, as published clients tell of it.

The engine is a stand-in: a prompt that begins with its HANG never ends.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from lorax import AsyncClient, Client
from lorax.errors import (
    GenerationError,
    IncompleteGenerationError,
    NotFoundError,
    OverloadedError,
)
from openai import OpenAI, Stream
from openai.types import Completion
from requests import Session

import stub_engine
from serve_with_stub import StubServer, stub_server, write_model

# lorax-client 0.6.3 calls pydantic by its old names.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

HANG = "<|im_start|>"  # its id is the stand-in's
FAIL = "<|im_end|>"


class Site:
    """A running server, and the clients that ask it."""

    def __init__(self, server: StubServer, session: Session, openai_client: OpenAI) -> None:
        self.server = server
        self.lorax = Client(str(openai_client.base_url).removesuffix("/v1/"), session=session)
        self.openai = openai_client

    def complete(self, token_id: int = 60, **options: Any) -> Any:
        asked: dict[str, Any] = {"model": "", "prompt": [token_id], "max_tokens": 2}
        return self.openai.completions.create(**asked, **options)

    def hanging_stream(self) -> Stream[Completion]:
        """It has had its first token."""
        stream: Stream[Completion] = self.complete(stub_engine.HANG, stream=True)
        next(stream)
        return stream

    def hanging_lorax_stream(self) -> Iterator[Any]:
        stream: Iterator[Any] = self.lorax.generate_stream(HANG)
        next(stream)
        return stream


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--model-id={write_model(tmp_path_factory.mktemp('model'))}"


@pytest.fixture
def options() -> tuple[str, ...]:
    return ()


@pytest.fixture
def site(model: str, options: tuple[str, ...]) -> Iterator[Site]:
    with stub_server(stub_engine.SERVES, model, *options) as server:
        [url] = server.line("ready")["urls"]
        with (
            Session() as session,
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Site(server, session, client)


def raised_by(call: Callable[[], object]) -> openai.APIError:
    with pytest.raises(openai.APIError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("options", [("--max-concurrent-requests=1",)])
async def test_a_full_server(site: Site) -> None:
    stream = site.hanging_stream()
    with pytest.raises(OverloadedError):
        site.lorax.generate("a")
    with pytest.raises(OverloadedError):
        list(site.lorax.generate_stream("a"))
    patient = AsyncClient(site.lorax.base_url)
    with pytest.raises(OverloadedError):
        await patient.generate("a")
    with pytest.raises(OverloadedError):
        [event async for event in patient.generate_stream("a")]
    error = raised_by(site.complete)
    assert (type(error), error.code) == (openai.RateLimitError, "queue_full")
    stream.close()
    while isinstance(error_of(site.complete), openai.RateLimitError):
        continue  # the server has not seen yet that its client left
    assert site.lorax.generate("a", max_new_tokens=1).details.generated_tokens == 1


def test_a_server_that_stops_refuses_what_is_new_and_ends_what_is_open(site: Site) -> None:
    """New is what comes on a connection from before: nobody listens any more."""
    streams = site.hanging_stream(), site.hanging_lorax_stream()
    site.complete()
    site.lorax.generate("a", max_new_tokens=1)
    site.server.process.terminate()
    site.server.line("stopping")
    assert site.lorax.session.get(f"{site.lorax.base_url}/ready").status_code == 503
    error = raised_by(site.complete)
    assert (type(error), error.code) == (openai.InternalServerError, "server_shutdown")
    with pytest.raises(IncompleteGenerationError, match="shutting down"):
        site.lorax.generate("a")
    site.server.process.terminate()  # the second time it does not wait
    assert raised_by(lambda: list(streams[0])).code == "server_shutdown"
    with pytest.raises(IncompleteGenerationError, match="shutting down"):
        list(streams[1])
    assert site.server.wait() == 0


@pytest.mark.parametrize("options", [("--max-concurrent-requests=4",)])
def test_a_lost_engine_is_told_to_all_and_not_asked_again(site: Site) -> None:
    """OpenAI's client would ask again, and find nobody, were it not told that this may do harm."""
    streams = site.hanging_stream(), site.hanging_lorax_stream()
    hopeful = site.openai.with_options(max_retries=9)
    asked: dict[str, Any] = {"model": "", "prompt": [stub_engine.HANG], "max_tokens": 2}
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(hopeful.completions.create, **asked)
        whole_of_lorax = pool.submit(admitted, lambda: site.lorax.generate(HANG))
        while not isinstance(error_of(site.complete), openai.RateLimitError):
            continue  # they do not have the last two places yet
        os.kill(site.server.engine_pid, signal.SIGKILL)
        error = raised_by(whole.result)
        assert (type(error), error.code) == (openai.InternalServerError, "engine_lost")
        with pytest.raises(IncompleteGenerationError, match="engine stopped"):
            whole_of_lorax.result()
    assert raised_by(lambda: list(streams[0])).code == "engine_lost"
    with pytest.raises(IncompleteGenerationError, match="engine stopped"):
        list(streams[1])
    assert site.server.wait() == 70


def admitted(call: Callable[[], object]) -> object:
    while True:
        try:
            return call()
        except OverloadedError:
            continue


def error_of(call: Callable[[], object]) -> openai.APIError | None:
    try:
        call()
    except openai.APIError as error:
        return error
    return None


async def test_what_the_engine_refuses_and_what_is_not_there(site: Site) -> None:
    url = site.lorax.base_url
    nowhere = f"{url}/nothing"
    with pytest.raises(GenerationError, match="No such luck"):
        site.lorax.generate(FAIL)
    with pytest.raises(GenerationError, match="No such luck"):
        await AsyncClient(url).generate(FAIL)
    with Session() as session, pytest.raises(NotFoundError):
        Client(nowhere, session=session).generate("a")
    with pytest.raises(NotFoundError):
        await AsyncClient(nowhere).generate("a")
    error = raised_by(lambda: site.complete(stub_engine.FAIL))
    assert (type(error), error.code) == (openai.UnprocessableEntityError, "adapter_corrupt")
