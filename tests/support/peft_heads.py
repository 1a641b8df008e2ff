"""Adapters with classification heads, as PEFT trains them, and what transformers makes of them.

The base is read from a folder that `build_tiny_model` wrote; heads and LoRA matrices are random.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from lorax_serve.ipc.types import HeadKind

_TASKS = {
    HeadKind.SEQUENCE: ("SEQ_CLS", AutoModelForSequenceClassification),
    HeadKind.TOKEN: ("TOKEN_CLS", AutoModelForTokenClassification),
}


def build_head_adapter(
    folder: Path,
    base: Path,
    kind: HeadKind,
    *,
    num_labels: int = 3,
    rank: int = 4,
    seed: int = 0,
    scale: float = 0.5,
) -> Any:
    """Writes the adapter's folder and returns the oracle: a PEFT model in float32. `scale` is the
    size of the LoRA matrices' values.
    """
    task, auto = _TASKS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_pretrained(base, num_labels=num_labels, dtype=torch.float32)
        config = LoraConfig(
            task_type=task, r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "down_proj"]
        )
        oracle = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in oracle.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(
                        torch.randn(parameter.shape) * (scale if "lora" in name else 1.0)
                    )
    oracle.eval()
    oracle.save_pretrained(str(folder), save_embedding_layers=False)
    return oracle


def reference_probabilities(oracle: Any, prompt: list[int]) -> torch.Tensor:
    """[1, L] of a sequence, [T, L] of tokens."""
    with torch.inference_mode():
        logits = oracle(input_ids=torch.tensor([prompt])).logits.float()
    logits = logits.reshape(-1, logits.shape[-1])
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
