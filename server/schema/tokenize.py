"""Bodies of /tokenize and /detokenize. LoRAX and vLLM share the address; their fields differ."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from lorax_serve.ipc.types import TokenId
from lorax_serve.server.errors import ServeError
from lorax_serve.server.schema.common import ABSENT, ObjectShape, decode, invalid, json_of
from lorax_serve.server.schema.conversation import (
    Conversation,
    Messages,
    TemplateKwargs,
    conversation,
)
from lorax_serve.server.schema.tools import AskedTools, Tools, asked_tools


class LoraxTokenize(Struct, frozen=True):
    inputs: str
    add_special_tokens: bool = True


class PromptTokenize(Struct, frozen=True):
    """vLLM's, of a text."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class MessagesTokenize(Struct, frozen=True):
    """vLLM's, of a conversation. Its template spells special tokens out, so none are added."""

    messages: Messages
    model: Annotated[str, Meta(max_length=4096)] = ""  # whose template it is; "": the base's
    add_generation_prompt: bool | None = None  # as of a chat request
    continue_final_message: bool = False
    chat_template_kwargs: TemplateKwargs = {}
    tools: Tools = ()
    add_special_tokens: bool = False
    return_token_strs: bool = False

    def conversation(self) -> Conversation:
        """Raises ServeError."""
        return conversation(
            self.messages,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            kwargs=self.chat_template_kwargs,
        )

    def asked_tools(self) -> AskedTools | None:
        """Those that a chat request shows whose model decides. Raises ServeError."""
        return asked_tools(self.tools, ABSENT, parallel=None)


class Detokenize(Struct, frozen=True):
    tokens: tuple[TokenId, ...]


class Tokenized(Struct, frozen=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: Annotated[Raw, json_of(list[str])] | None  # pieces of the vocabulary


class Detokenized(Struct, frozen=True):
    prompt: str


# All adapters share the base model's tokenizer.
TOLERATED = ("model",)

# What a template would read besides.
UNSERVED: dict[str, tuple[object, ...]] = {
    "chat_template": (),
    "mm_processor_kwargs": ({},),
}

LORAX = ObjectShape(LoraxTokenize, unserved={}, tolerated=TOLERATED, large=("inputs",))
PROMPT = ObjectShape(PromptTokenize, unserved={}, tolerated=TOLERATED, large=("prompt",))
MESSAGES = ObjectShape(
    MessagesTokenize, unserved=UNSERVED, tolerated=(), large=("messages", "tools")
)
DETOKENIZE = ObjectShape(Detokenize, unserved={}, tolerated=TOLERATED, large=("tokens",))

TokenizeBody = LoraxTokenize | PromptTokenize | MessagesTokenize


def parse_tokenize(raw: bytes) -> tuple[TokenizeBody, tuple[str, ...]]:
    """The body, told apart by its text's field, and the names of unknown fields.

    Raises ServeError when there is no such field, or more than one.
    """
    body = decode(raw, dict[str, Raw])
    texts = ("inputs", "prompt", "messages")
    match [name for name in texts if bytes(body.get(name, ABSENT)) != b"null"]:
        case ["inputs"]:
            return LORAX.parse(raw)
        case ["prompt"]:
            return PROMPT.parse(raw)
        case ["messages"]:
            return MESSAGES.parse(raw)
        case given:
            raise _one_text(given)


def _one_text(given: list[str]) -> ServeError:
    if given:
        return invalid(given[1], f"cannot be given beside `{given[0]}`")
    return invalid("inputs", "is required, or `prompt`, or `messages`")
