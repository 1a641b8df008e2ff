"""The headers of replies, in words. What sends most of them is `server/reply_headers.py`."""

from collections.abc import Mapping
from typing import Final

REQUEST_ID: Final = "x-request-id"  # on every reply, errors too

SERVED: Final = ("x-compute-type", "x-compute-characters", "x-model-id")
ADAPTER: Final = ("x-adapter-id", "x-adapter-source")
IGNORED: Final = ("x-ignored-params",)
GRAMMAR: Final = ("x-grammar-warnings",)
POOLED: Final = (
    "x-compute-time",
    "x-total-time",
    "x-validation-time",
    "x-queue-time",
    "x-inference-time",
    "x-prompt-tokens",
    "x-total-tokens",
)
GENERATED: Final = (
    "x-generated-tokens",
    "x-skipped-tokens",
    "x-time-per-token",
    "x-time-to-first-token",
    "x-time-per-output-token",
)
RETRY_AFTER: Final = "Retry-After"
SHOULD_RETRY: Final = "x-should-retry"

DESCRIPTIONS: Final[Mapping[str, str]] = {
    REQUEST_ID: "The request's own, or one that was made up.",
    "x-compute-type": "`gpu+optimized`, or `cpu`.",
    "x-compute-characters": "Of the prompt.",
    "x-model-id": "The base model.",
    "x-adapter-id": "Where there is an adapter; of a merge the names with commas between.",
    "x-adapter-source": "Where there is an adapter.",
    "x-ignored-params": "Fields of the body that were left out, with commas between.",
    "x-grammar-warnings": "What a schema asks for that is not enforced.",
    "x-compute-time": "Milliseconds, from the request's arrival to the reply.",
    "x-total-time": "The same.",
    "x-validation-time": "Milliseconds until the request was with the engine.",
    "x-queue-time": "Milliseconds that it waited there.",
    "x-inference-time": "Milliseconds of the rest.",
    "x-prompt-tokens": "Of all prompts.",
    "x-total-tokens": "Of prompts and answers.",
    "x-generated-tokens": "Of all answers.",
    "x-skipped-tokens": "0: nothing is speculated.",
    "x-time-per-token": "Milliseconds.",
    "x-time-to-first-token": "Milliseconds.",
    "x-time-per-output-token": "Milliseconds, after the first.",
    RETRY_AFTER: "Seconds, where trying again may help.",
    SHOULD_RETRY: "`false` where the same request may do the same harm again.",
}
