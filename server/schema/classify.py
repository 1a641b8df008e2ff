"""Bodies and replies of /classify and /classify_batch, which are LoRAX's."""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Raw, Struct

from lorax_serve.ipc.messages import NO_BASE_HEAD
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import EmbeddingRequest
from lorax_serve.server.schema.common import ObjectShape, json_of
from lorax_serve.server.schema.embeddings import EMBED_PARAMETERS, EmbedParameters

Text = Annotated[str, Meta(min_length=1)]


class ClassifyBody(Struct, frozen=True):
    inputs: Text
    parameters: Annotated[Raw, json_of(EmbedParameters)] = Raw(b"{}")


class ClassifyBatchBody(Struct, frozen=True):
    inputs: Annotated[tuple[Text, ...], Meta(min_length=1)]
    parameters: Annotated[Raw, json_of(EmbedParameters)] = Raw(b"{}")


MEANT = {name: f"parameters.{name}" for name in ("adapter_id", "adapter_source", "api_token")}
CLASSIFY = ObjectShape(
    ClassifyBody,
    unserved={"truncate": (False,), "merged_adapters": ()},
    tolerated=("stream",),  # LoRAX's client sends it with everything
    large=("inputs",),
    meant=MEANT,
)
CLASSIFY_BATCH = ObjectShape(
    ClassifyBatchBody,
    unserved={"truncate": (False,), "merged_adapters": ()},
    tolerated=("stream",),
    large=("inputs",),
    meant=MEANT,
)


def parse_classify(raw: bytes) -> tuple[EmbeddingRequest, tuple[str, ...]]:
    """One text, and the names of unknown fields. Raises ServeError."""
    body, ignored = CLASSIFY.parse(raw)
    return _request((body.inputs,), body.parameters, ignored)


def parse_classify_batch(raw: bytes) -> tuple[EmbeddingRequest, tuple[str, ...]]:
    """The same of several texts."""
    body, ignored = CLASSIFY_BATCH.parse(raw)
    return _request(body.inputs, body.parameters, ignored)


def _request(
    texts: tuple[str, ...], parameters: Raw, ignored: Iterable[str]
) -> tuple[EmbeddingRequest, tuple[str, ...]]:
    asked, ignored_parameters = EMBED_PARAMETERS.parse(bytes(parameters))
    _check(asked)
    request = EmbeddingRequest(
        prompts=texts,
        param="inputs",
        wants_labels=True,
        adapter_id=asked.adapter_id,
        adapter_source=asked.adapter_source,
        adapter_token=asked.api_token,
    )
    return request, (*ignored, *ignored_parameters)


def _check(asked: EmbedParameters) -> None:
    if asked.merged_adapters is not None:
        raise ServeError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            "Heads of several adapters cannot be merged.",
            param="parameters.merged_adapters",
        )
    if not asked.adapter_id:
        raise ServeError(
            ErrorCode.UNSUPPORTED_PARAMETER, NO_BASE_HEAD, param="parameters.adapter_id"
        )


class Label(Struct, frozen=True, kw_only=True):
    """Of a text: one for each label, the likeliest first. Of tokens: one for each stretch of tokens
    that have the same label, as they come.
    """

    entity_group: str
    score: float  # a probability; of a stretch the mean
    word: str  # the stretch; of the whole text nothing, which would be there for every label
    start: int  # its first character
    end: int  # one past the last
