"""What a client asked for, in words both APIs share, before it meets the model.

Schemas make it; admission turns it into an engine message. Nothing here depends on the model.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.call_schema import Schema
from lorax_serve.ipc.types import MajoritySignMethod, MergeStrategy, SamplingParams

MAX_SEED = 2**63 - 1

# Below this a temperature only overflows the division it stands for: it means greedy.
SMALLEST_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class JsonSchema:
    """Output must be JSON that fits the schema; `strict` refuses a schema not exactly enforced."""

    schema: object
    strict: bool = False


@dataclass(frozen=True)
class JsonObject:
    """Output must be any JSON object."""


@dataclass(frozen=True)
class Regex:
    pattern: str


@dataclass(frozen=True)
class Choice:
    options: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """Output must be derived by a grammar, in Lark's syntax."""

    text: str


@dataclass(frozen=True)
class ToolCalls:
    """Any output, but a call that it holds must be of one of the functions and fit its schema."""

    family: CallFamily  # how the model writes calls
    functions: Mapping[str, Schema]  # the schemas of their arguments by name
    parallel: bool  # there may be several


Constraint = JsonSchema | JsonObject | Regex | Choice | Grammar | ToolCalls


@dataclass(frozen=True)
class Merge:
    """Adapters to be used as one; what a strategy does not use has its default."""

    adapter_ids: tuple[str, ...]
    weights: tuple[float, ...]  # one per id
    strategy: MergeStrategy
    density: float | None
    majority_sign_method: MajoritySignMethod


Prompt = str | tuple[int, ...]  # text, or token ids as the client sent them


@dataclass(frozen=True, kw_only=True)
class AdapterRequest:
    """Which adapter a request names, and with what right."""

    adapter_id: str = ""  # "" or a name of the served model: the base model
    merge: Merge | None = None  # instead of `adapter_id`
    # None: the server's default; of no account for the base, of every part of a merge.
    adapter_source: str | None = None
    adapter_token: str | None = field(default=None, repr=False)  # for the adapter's source
    cache_salt: str = ""


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(AdapterRequest):
    prompts: tuple[Prompt, ...]  # at least one; each becomes a vector
    add_special_tokens: bool = True
    wants_labels: bool = False  # what the adapter's classification head says, and no vector
    param: str  # what the API calls them


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(AdapterRequest):
    prompt: Prompt
    further_prompts: tuple[Prompt, ...] = ()  # answered like the first, each on its own
    num_branches: int = 1  # answers to each prompt: with the seed, the next seed, and so on
    sampling: SamplingParams
    add_special_tokens: bool = True
    truncate: int | None = None  # keep only this many last prompt tokens
    truncate_param: str = "truncate"  # what the API calls it
    max_new_tokens: int | None = None  # None: as many as fit; 0: only the prompt is looked at
    min_new_tokens: int = 0  # before, nothing ends an answer but its grammar
    num_prompt_logprobs: int | None = None  # most likely tokens at every position of the prompt
    stop_strings: tuple[str, ...] = ()
    keep_stop_string: bool = False
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    constraint: Constraint | None = None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.prompt, *self.further_prompts

    @property
    def num_sequences(self) -> int:
        return len(self.prompts) * self.num_branches

    def branch_sampling(self, branch: int) -> SamplingParams:
        """What a request with the seed that many higher would be sampled with."""
        return replace(self.sampling, seed=fold_seed(self.sampling.seed + branch))


def draw_seed() -> int:
    return secrets.randbits(63)


def fold_seed(seed: int) -> int:
    """Any integer to the engine's 63 bits, the same way each time; seeds that fit stay as sent."""
    return seed & MAX_SEED


def effective_temperature(temperature: float) -> float:
    return temperature if temperature >= SMALLEST_TEMPERATURE else 0.0
