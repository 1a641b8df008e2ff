"""The decoder of the Llama family, driven by its configuration. No global context: all is passed.

Legend: T rows of a step, N sampled rows, E hidden size, H query heads, K key-value heads, D head
size, I intermediate size.
"""

from dataclasses import dataclass

import torch

from lorax_serve.engine.forward_batch import ForwardBatch
from lorax_serve.engine.kv_cache import KVCache
from lorax_serve.engine.models.config import ModelConfig
from lorax_serve.engine.models.linear import Linear
from lorax_serve.kernels.activation import silu_mul
from lorax_serve.kernels.attention_plan import AttentionPlan, plan_attention
from lorax_serve.kernels.lora import LoraDelta, LoraSite
from lorax_serve.kernels.norm import add_rms_norm, rms_norm
from lorax_serve.kernels.paged_attention import paged_attention, write_kv
from lorax_serve.kernels.rope import Rotation, apply_rope_, rotation


@dataclass(frozen=True, slots=True)
class QKNorm:
    """Qwen3: every head of the queries and keys is normalised before it is turned."""

    q: torch.Tensor  # [D]
    k: torch.Tensor  # [D]


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    input_norm: torch.Tensor  # [E]
    qkv: Linear  # E -> (H + 2K) D
    qk_norm: QKNorm | None
    output: Linear  # H D -> E
    mlp_norm: torch.Tensor  # [E]
    gate_up: Linear  # E -> 2I
    down: Linear  # I -> E
    window: int | None  # keys a row sees, itself included; None: all


@dataclass(frozen=True, slots=True)
class _StepContext:
    """What every layer of one forward pass shares."""

    rotation: Rotation
    plans: dict[int | None, AttentionPlan]  # by window
    slot_mapping: torch.Tensor  # [T]
    lora: LoraDelta | None


@dataclass(frozen=True, slots=True)
class Decoder:
    config: ModelConfig
    sites: tuple[LoraSite, ...]  # entry i has index i
    num_parameters: int
    inverse_frequencies: torch.Tensor  # [D / 2] float32
    rms_norm_eps: torch.Tensor  # [] float32
    embedding: torch.Tensor  # [vocab, E]; the head's weight too when they are tied
    layers: tuple[DecoderLayer, ...]
    final_norm: torch.Tensor  # [E]
    lm_head: Linear  # E -> vocab

    def forward(
        self, batch: ForwardBatch, kv_cache: KVCache, lora: LoraDelta | None
    ) -> torch.Tensor:
        """Runs the step's rows through all layers and writes their keys and values.

        Returns the hidden states after the final norm, [T, E]. `lora` is bound to the T rows.
        """
        context = self._context(batch, kv_cache, lora)
        residual = torch.nn.functional.embedding(batch.input_ids, self.embedding)
        x = rms_norm(residual, self.layers[0].input_norm, self.rms_norm_eps)
        next_norms = [layer.input_norm for layer in self.layers[1:]] + [self.final_norm]
        for layer, cache, next_norm in zip(self.layers, kv_cache.layers, next_norms, strict=True):
            attended = self._attention(layer, x, cache, context)
            x = add_rms_norm(attended, residual, layer.mlp_norm, self.rms_norm_eps)
            x = layer.down(silu_mul(layer.gate_up(x, lora)), lora)
            x = add_rms_norm(x, residual, next_norm, self.rms_norm_eps)
        return x

    def logits(self, hidden: torch.Tensor, lora: LoraDelta | None) -> torch.Tensor:
        """hidden [N, E] -> [N, vocab] float32. `lora` is bound to the N rows."""
        return self.lm_head(hidden, lora).float()

    def _context(
        self, batch: ForwardBatch, kv_cache: KVCache, lora: LoraDelta | None
    ) -> _StepContext:
        windows = {layer.window for layer in self.layers}
        return _StepContext(
            rotation=rotation(
                batch.positions, self.inverse_frequencies, self.config.rope.attention_factor
            ),
            plans={
                window: plan_attention(batch.attention, kv_cache.layers[0], sliding_window=window)
                for window in windows
            },
            slot_mapping=batch.attention.slot_mapping,
            lora=lora,
        )

    def _attention(
        self, layer: DecoderLayer, x: torch.Tensor, cache: torch.Tensor, context: _StepContext
    ) -> torch.Tensor:
        """x [T, E] -> [T, E]. Heads of qkv: H of queries, K of keys, K of values."""
        config = self.config
        num_heads, num_kv_heads = config.num_heads, config.num_kv_heads
        qkv = layer.qkv(x, context.lora)
        qkv = qkv.view(-1, num_heads + 2 * num_kv_heads, config.head_dim)
        q, kv = qkv[:, :num_heads], qkv[:, num_heads:]
        if layer.qk_norm is not None:
            _normalize_(q, layer.qk_norm.q, self.rms_norm_eps)
            _normalize_(kv[:, :num_kv_heads], layer.qk_norm.k, self.rms_norm_eps)
        apply_rope_(qkv[:, : num_heads + num_kv_heads], context.rotation)
        write_kv(kv.view(-1, 2, num_kv_heads, config.head_dim), cache, context.slot_mapping)
        attended = paged_attention(
            q, cache, context.plans[layer.window], scale=config.head_dim**-0.5
        )
        return layer.output(attended.flatten(1), context.lora)


def _normalize_(heads: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor) -> None:
    heads.copy_(rms_norm(heads, weight, eps))
