"""Bodies and replies of /v1/embeddings, which is OpenAI's, and of /embed, which is LoRAX's."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from lorax_serve.server.request import EmbeddingRequest
from lorax_serve.server.schema.common import AdapterToken, ObjectShape, invalid, json_of
from lorax_serve.server.schema.merging import MergedAdapters
from lorax_serve.server.schema.openai import PromptItem, listed_prompts


class EmbeddingsBody(Struct, frozen=True, kw_only=True):
    model: Annotated[str, Meta(max_length=4096)]
    input: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[PromptItem, ...], Meta(min_length=1, max_length=2**20)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    # Extensions.
    adapter_source: Annotated[str, Meta(max_length=64)] | None = None
    api_token: AdapterToken | None = None
    add_special_tokens: bool = True
    cache_salt: Annotated[str, Meta(max_length=128)] = ""

    def __repr__(self) -> str:
        return "EmbeddingsBody(…)"  # one of the fields is secret


class EmbedParameters(Struct, frozen=True, kw_only=True):
    adapter_id: Annotated[str, Meta(max_length=4096)] = ""
    adapter_source: Annotated[str, Meta(max_length=64)] | None = None
    merged_adapters: MergedAdapters | None = None
    api_token: AdapterToken | None = None
    cache_salt: Annotated[str, Meta(max_length=128)] = ""  # vLLM's

    def __repr__(self) -> str:
        return "EmbedParameters(…)"  # one of them is secret


class EmbedBody(Struct, frozen=True):
    inputs: Annotated[str, Meta(min_length=1)]
    parameters: Annotated[Raw, json_of(EmbedParameters)] = Raw(b"{}")


# Each would make other vectors; the values that ask for nothing are accepted.
UNSERVED: dict[str, tuple[object, ...]] = {
    "input_type": (),
    "instruction": ("",),
    "messages": (),
    "normalize": (True,),
    "priority": (0,),
    "prompt_template": (),
    "task": (),
    "truncate_prompt_tokens": (),
}

EMBEDDINGS = ObjectShape(
    EmbeddingsBody,
    unserved=UNSERVED,
    tolerated=("metadata", "user"),
    large=("input",),
    meant={"parameters": "model"},  # where LoRAX's request names the adapter
)
EMBED = ObjectShape(
    EmbedBody,
    unserved={"truncate": (False,)},
    tolerated=("stream",),  # LoRAX's client sends it with everything
    large=("inputs",),
    meant={
        name: f"parameters.{name}"
        for name in ("adapter_id", "adapter_source", "api_token", "merged_adapters")
    },
)
EMBED_PARAMETERS = ObjectShape(EmbedParameters, unserved={"truncate": ()}, path="parameters.")


def embeddings_request(body: EmbeddingsBody, hidden_size: int) -> EmbeddingRequest:
    """Raises ServeError on what no vector of the model can be."""
    if body.dimensions not in (None, hidden_size):
        raise invalid(
            "dimensions",
            f"is not {hidden_size}, which every vector of this model has: cut shorter, it would"
            " mean something only if the model had been trained for that",
        )
    return EmbeddingRequest(
        prompts=listed_prompts("input", body.input),
        param="input",
        add_special_tokens=body.add_special_tokens,
        adapter_id=body.model,
        adapter_source=body.adapter_source,
        adapter_token=body.api_token,
        cache_salt=body.cache_salt,
    )


def parse_embed(raw: bytes) -> tuple[EmbeddingRequest, tuple[str, ...]]:
    """What LoRAX's body asks for, and the names of unknown fields. Raises ServeError."""
    body, ignored = EMBED.parse(raw)
    parameters, ignored_parameters = EMBED_PARAMETERS.parse(bytes(body.parameters))
    name, merge = "parameters.merged_adapters", None
    if parameters.merged_adapters is not None:
        if parameters.adapter_id:
            raise invalid(name, "cannot be given beside `parameters.adapter_id`")
        merge = parameters.merged_adapters.merge(name)
    asked = EmbeddingRequest(
        prompts=(body.inputs,),
        param="inputs",
        adapter_id=parameters.adapter_id,
        merge=merge,
        adapter_source=parameters.adapter_source,
        adapter_token=parameters.api_token,
        cache_salt=parameters.cache_salt,
    )
    return asked, ignored + ignored_parameters


class Embedding(Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int  # of the input
    embedding: tuple[float, ...] | str  # base64 of little-endian float32, where that was asked for


class EmbeddingUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Embedding, ...]
    model: str
    usage: EmbeddingUsage


class Embedded(Struct, frozen=True):
    embeddings: tuple[float, ...]
