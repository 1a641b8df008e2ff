"""What a run is asked to do. Its report repeats all of it, so that a line explains itself."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Endpoint = Literal["completions", "chat"]
Mix = Literal["none", "identical", "uniform", "zipf"]
Mode = Literal["closed", "open"]

PATHS: Mapping[Endpoint, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """None where a setting has no part in the run."""

    label: str
    url: str  # without a path
    endpoint: Endpoint
    base_model: str
    adapters: tuple[str, ...]  # by falling popularity where the mix is zipf
    adapter_field: str  # of the body; in any but "model", the base model stays in "model"
    mix: Mix
    zipf_s: float | None
    mode: Mode
    concurrency: int | None  # requests under way at a time, in a closed loop
    rate: float | None  # mean arrivals a second, in an open loop
    duration: float | None  # seconds in which requests arrive, in an open loop
    num_requests: int | None
    prompts: Path | None
    prompt_tokens: bool  # prompts are token ids, not text
    max_token_id: int | None  # of such prompts
    input_len: int | None  # tokens
    output_len: int  # tokens
    ignore_eos: bool
    temperature: float
    extra_body: dict[str, Any]
    seed: int
    warmup: int  # requests
    timeout: float  # seconds from sending to the last byte

    def settings(self) -> dict[str, Any]:
        """For the report: adapters by their number."""
        prompts = str(self.prompts) if self.prompts else None
        return {**asdict(self), "adapters": len(self.adapters), "prompts": prompts}
