"""Bodies of requests. All but those that classify work on the demo's server."""

from typing import Any, Final

GENERATE_EXAMPLE: Final[dict[str, Any]] = {
    "inputs": "How do I stay healthy?",
    "parameters": {"adapter_id": "pirate", "max_new_tokens": 40, "details": True},
}
EMBED_EXAMPLE: Final[dict[str, Any]] = {"inputs": "How do I bake bread?"}
_CLASSIFIER: Final[dict[str, Any]] = {"adapter_id": "team/sentiment"}
CLASSIFY_EXAMPLE: Final[dict[str, Any]] = {"inputs": "So good!", "parameters": _CLASSIFIER}
CLASSIFY_BATCH_EXAMPLE: Final[dict[str, Any]] = {
    "inputs": ["So good!", "So bad!"],
    "parameters": _CLASSIFIER,
}
CHAT_EXAMPLE: Final[dict[str, Any]] = {
    "model": "pirate",
    "messages": [{"role": "user", "content": "How do I stay healthy?"}],
    "max_tokens": 40,
}
COMPLETION_EXAMPLE: Final[dict[str, Any]] = {
    "model": "pirate",
    "prompt": "How do I stay healthy?",
    "max_tokens": 40,
}
EMBEDDINGS_EXAMPLE: Final[dict[str, Any]] = {
    "model": "pirate",
    "input": ["How do I bake bread?", "Yo ho ho!"],
}
LOAD_EXAMPLE: Final[dict[str, Any]] = {"lora_name": "support", "lora_path": "team/support"}
