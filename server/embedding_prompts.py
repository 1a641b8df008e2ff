"""The texts and token ids of a request for embeddings, as ids that the model has room for."""

import asyncio

from lorax_serve.ipc.types import EngineInfo, ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import EmbeddingRequest, Prompt
from lorax_serve.server.service import Service


async def embedding_prompts(service: Service, asked: EmbeddingRequest) -> tuple[list[int], ...]:
    """In their order. Special tokens are those that the tokenizer adds by itself: one of a model
    that is to be read at its end token adds that.

    Raises ServeError that says which of them does not fit, or that there are too many.
    """
    info, limits = service.engine.info, service.limits
    if len(asked.prompts) > limits.max_embedding_inputs:
        raise ServeError(
            ErrorCode.INVALID_REQUEST,
            f"`{asked.param}` has {len(asked.prompts)} items; at most"
            f" {limits.max_embedding_inputs} are accepted.",
            param=asked.param,
        )
    most = max(limits.max_embedding_tokens, info.max_model_len)
    prompts: list[list[int]] = []
    num_tokens = 0
    for number, prompt in enumerate(asked.prompts):
        try:
            ids = await _ids(service, asked, prompt, info)
        except ServeError as error:
            raise _of_item(error, asked, number) from None
        num_tokens += len(ids)
        if num_tokens > most:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                f"All of `{asked.param}` together has more than {most} tokens.",
                param=asked.param,
            )
        prompts.append(ids)
        await asyncio.sleep(0)  # short texts are encoded on the spot, and there may be thousands
    return tuple(prompts)


async def _ids(
    service: Service, asked: EmbeddingRequest, prompt: Prompt, info: EngineInfo
) -> list[int]:
    if isinstance(prompt, str):
        ids = await service.tokenizer.encode_bounded(
            prompt, add_special_tokens=asked.add_special_tokens, max_tokens=info.max_model_len
        )
    else:
        ids = list(prompt)
    if not ids:
        raise ServeError(ErrorCode.INVALID_REQUEST, "The prompt is empty.")
    if len(ids) > info.max_model_len:
        raise ServeError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt is {len(ids)} tokens long; at most {info.max_model_len} fit.",
        )
    if max(ids) >= info.vocab_size:
        raise ServeError(
            ErrorCode.INVALID_REQUEST,
            f"There is a token id outside the vocabulary of {info.vocab_size}. Another model's"
            " tokenizer made it? LangChain sends such ids unless it is given"
            " `check_embedding_ctx_length=False`.",
        )
    return ids


def _of_item(error: ServeError, asked: EmbeddingRequest, number: int) -> ServeError:
    place = f"`{asked.param}[{number}]`: " if len(asked.prompts) > 1 else ""
    return ServeError(error.code, place + error.message, param=asked.param)
