"""What OpenAI's request bodies share, and that of completions, with the extensions that LoRAX and
vLLM made usual."""

from dataclasses import replace
from typing import Annotated, TypeGuard

from msgspec import Meta, Struct

from lorax_serve.ipc.types import SamplingParams
from lorax_serve.server.request import (
    Constraint,
    GenerationRequest,
    Prompt,
    draw_seed,
    effective_temperature,
    fold_seed,
)
from lorax_serve.server.schema.common import (
    ABSENT,
    OUTPUT_CONTROLS,
    AdapterToken,
    ObjectShape,
    invalid,
)
from lorax_serve.server.schema.constraints import (
    GrammarText,
    Options,
    Pattern,
    ResponseFormat,
    SchemaOrText,
    StructuredOutputs,
    guided_constraint,
    only_one,
)

Count = Annotated[int, Meta(ge=1, lt=2**31)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=1e-6, le=1)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
NumChoices = Annotated[int, Meta(ge=1, le=16)]
NumTop = Annotated[int, Meta(ge=0, le=20)]
PromptItem = str | TokenId | tuple[TokenId, ...]
Bias = Annotated[float, Meta(ge=-100, le=100)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # padding against traffic analysis; without effect here


class GenerationBody(Struct, frozen=True, kw_only=True):
    """What chat and completions share."""

    model: Annotated[str, Meta(max_length=4096)]
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Share = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | tuple[str, ...] = ()
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=1024)] = {}
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # Extensions.
    adapter_source: Annotated[str, Meta(max_length=64)] | None = None
    api_token: AdapterToken | None = None
    top_k: Annotated[int, Meta(ge=-1, lt=2**31)] = 0  # 0 and -1: off
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    typical_p: Share = 1.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    min_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    ignore_eos: bool = False
    ignore_eos_token: bool = False
    stop_token_ids: tuple[TokenId, ...] = ()
    add_special_tokens: bool | None = None  # true, but where a template has spelled them out
    truncate_prompt_tokens: Count | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    cache_salt: Annotated[str, Meta(max_length=128)] = ""
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False  # where logprobs name tokens
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText = ABSENT
    guided_regex: Pattern | None = None
    guided_choice: Options | None = None
    guided_grammar: GrammarText | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"  # one of the fields is secret

    def constraint(self) -> Constraint | None:
        """Raises ServeError when several are given."""
        given: list[Constraint | None] = [
            guided_constraint(
                json=self.guided_json,
                regex=self.guided_regex,
                choice=self.guided_choice,
                grammar=self.guided_grammar,
                name="guided_json",
            )
        ]
        if self.response_format is not None:
            given.append(self.response_format.constraint("response_format"))
        if self.structured_outputs is not None:
            given.append(self.structured_outputs.constraint("structured_outputs"))
        return only_one(given, "response_format")

    def sampling(self, num_logprobs: int | None) -> SamplingParams:
        return SamplingParams(
            temperature=effective_temperature(self.temperature),
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=draw_seed() if self.seed is None else fold_seed(self.seed),
            logit_bias=_logit_bias(self.logit_bias),
            num_logprobs=num_logprobs,
        )

    def check_stream_options(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "needs `stream` to be true")


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    prompt: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[tuple[PromptItem, ...], Meta(min_length=1, max_length=2**20)]
    )
    n: NumChoices = 1
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    echo: bool = False
    max_tokens: Annotated[int, Meta(ge=0, lt=2**31)] | None = None  # 0: the echo alone
    logprobs: NumTop | None = None

    @property
    def num_branches(self) -> int:
        """Answers to each prompt, of which the best `n` are shown."""
        return self.best_of or self.n


# Accepted from every client and without effect here: accounting, caching and safety hints.
TOLERATED = (
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)

# Each promises an effect that is not served; the values that ask for nothing are accepted.
UNSERVED: dict[str, tuple[object, ...]] = {
    **OUTPUT_CONTROLS,
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "guideline": (),
    "modalities": (["text"],),
    "moderation": (),
    "priority": (0,),
    "prompt_embeds": (),
    "spaces_between_special_tokens": (True,),
    "suffix": ("",),
    "tool_prompt": (),
    "web_search_options": (),
}

# LoRAX's names. Left out, they would give another model's answer, or one without end.
MEANT = {"adapter_id": "model", "max_new_tokens": "max_tokens"}

COMPLETION = ObjectShape(
    CompletionBody,
    unserved=UNSERVED,
    tolerated=TOLERATED,
    large=("prompt",),
    meant={**MEANT, "max_completion_tokens": "max_tokens"},
)


def completion_request(body: CompletionBody) -> GenerationRequest:
    """Raises ServeError on fields that contradict."""
    if body.num_branches < body.n:
        raise invalid("best_of", "is less than `n`")
    if body.stream and body.num_branches > body.n:
        raise invalid("best_of", "cannot be streamed where it is more than `n`")
    if body.max_tokens == 0 and not body.echo:
        raise invalid("max_tokens", "is 0, which needs `echo` to be true")
    if body.echo and body.truncate_prompt_tokens is not None:
        raise invalid("truncate_prompt_tokens", "cannot be given beside `echo`")
    prompt, *others = completion_prompts(body.prompt)
    num_logprobs = body.logprobs
    if num_logprobs is None and body.num_branches > body.n:
        num_logprobs = 0  # the best are found by them
    request = generation_request(
        body, prompt, num_logprobs, body.max_tokens, adds_special_tokens=True
    )
    return replace(
        request,
        further_prompts=tuple(others),
        num_branches=body.num_branches,
        num_prompt_logprobs=body.logprobs if body.echo else None,
    )


def generation_request(
    body: GenerationBody,
    prompt: Prompt,
    num_logprobs: int | None,
    max_new_tokens: int | None,
    *,
    adds_special_tokens: bool,
) -> GenerationRequest:
    """`adds_special_tokens`: unless the body says. Raises ServeError on fields that contradict."""
    body.check_stream_options()
    if max_new_tokens is not None and body.min_tokens > max_new_tokens:
        raise invalid("min_tokens", "is more than `max_tokens`")
    return GenerationRequest(
        prompt=prompt,
        add_special_tokens=(
            adds_special_tokens if body.add_special_tokens is None else body.add_special_tokens
        ),
        truncate=body.truncate_prompt_tokens,
        truncate_param="truncate_prompt_tokens",
        adapter_id=body.model,
        adapter_source=body.adapter_source,
        adapter_token=body.api_token,
        sampling=body.sampling(num_logprobs),
        max_new_tokens=max_new_tokens,
        min_new_tokens=body.min_tokens,
        stop_strings=(body.stop,) if isinstance(body.stop, str) else body.stop,
        keep_stop_string=body.include_stop_str_in_output,
        stop_token_ids=body.stop_token_ids,
        ignore_eos=body.ignore_eos or body.ignore_eos_token,
        skip_special_tokens=body.skip_special_tokens,
        constraint=body.constraint(),
        cache_salt=body.cache_salt,
    )


def completion_prompts(prompt: str | tuple[PromptItem, ...]) -> tuple[Prompt, ...]:
    """Raises ServeError."""
    return listed_prompts("prompt", prompt)


def listed_prompts(name: str, prompt: str | tuple[PromptItem, ...]) -> tuple[Prompt, ...]:
    """A list of token ids is one prompt, any other list one for each item. Raises ServeError that
    calls the field by its name.
    """
    if isinstance(prompt, str):
        return (prompt,)
    if _are_ids(prompt):
        return (prompt,)
    prompts = tuple(each for each in prompt if not isinstance(each, int))
    if len(prompts) < len(prompt):
        raise invalid(name, "mixes token ids with texts or lists of them")
    if not all(prompts):
        raise invalid(name, "has an item that is empty")
    return prompts


def _are_ids(prompt: tuple[PromptItem, ...]) -> TypeGuard[tuple[int, ...]]:
    return set(map(type, prompt)) == {int}


def _logit_bias(bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
    pairs = []
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise invalid("logit_bias", "has a key that is not a token id")
        pairs.append((int(key), value))
    return tuple(pairs)
