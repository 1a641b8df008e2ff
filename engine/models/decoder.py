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
from lorax_serve.kernels.attention_backend import StepAttention
from lorax_serve.kernels.decoder_kernels import DecoderKernels
from lorax_serve.kernels.lora import LoraDelta, LoraSite
from lorax_serve.kernels.rope import Rotation, rotation


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
    slot_mapping: torch.Tensor  # [T]
    attention: StepAttention
    lora: LoraDelta | None


@dataclass(frozen=True, slots=True)
class Decoder:
    config: ModelConfig
    sites: tuple[LoraSite, ...]  # entry i has index i
    num_parameters: int
    inverse_frequencies: torch.Tensor  # [D / 2] float32
    kernels: DecoderKernels
    embedding: torch.Tensor  # [vocab, E]; the head's weight too when they are tied
    layers: tuple[DecoderLayer, ...]
    final_norm: torch.Tensor  # [E]
    lm_head: Linear  # E -> vocab

    def forward(
        self,
        batch: ForwardBatch,
        kv_cache: KVCache,
        attention: StepAttention,
        lora: LoraDelta | None,
    ) -> torch.Tensor:
        """Runs the step's rows through all layers and writes their keys and values.

        Returns the hidden states after the final norm, [T, E]. `attention` and `lora` are bound to
        the T rows.
        """
        kernels = self.kernels
        turn = rotation(
            batch.positions, self.inverse_frequencies, self.config.rope.attention_factor
        )
        context = _StepContext(turn, batch.attention.slot_mapping, attention, lora)
        residual = torch.nn.functional.embedding(batch.input_ids, self.embedding)
        x = kernels.rms_norm(residual, self.layers[0].input_norm)
        next_norms = [layer.input_norm for layer in self.layers[1:]] + [self.final_norm]
        for layer, cache, next_norm in zip(self.layers, kv_cache.layers, next_norms, strict=True):
            attended = self._attention(layer, x, cache, context)
            x = kernels.add_rms_norm(attended, residual, layer.mlp_norm)
            x = layer.down(kernels.silu_mul(layer.gate_up(x, lora)), lora)
            x = kernels.add_rms_norm(x, residual, next_norm)
        return x

    def logits(self, hidden: torch.Tensor, lora: LoraDelta | None) -> torch.Tensor:
        """hidden [N, E] -> [N, vocab] of the model's dtype. `lora` is bound to the N rows."""
        return self.lm_head(hidden, lora)

    def _attention(
        self, layer: DecoderLayer, x: torch.Tensor, cache: torch.Tensor, context: _StepContext
    ) -> torch.Tensor:
        """x [T, E] -> [T, E]. Heads of qkv: H of queries, K of keys, K of values."""
        config = self.config
        num_heads, num_kv_heads = config.num_heads, config.num_kv_heads
        qkv = layer.qkv(x, context.lora)
        qkv = qkv.view(-1, num_heads + 2 * num_kv_heads, config.head_dim)
        q, k = qkv[:, :num_heads], qkv[:, num_heads : num_heads + num_kv_heads]
        if layer.qk_norm is not None:
            self.kernels.rms_norm_heads_(q, layer.qk_norm.q)
            self.kernels.rms_norm_heads_(k, layer.qk_norm.k)
        self.kernels.rope_and_write_kv(qkv, context.rotation, cache, context.slot_mapping)
        attended = context.attention(
            q, cache, scale=config.head_dim**-0.5, sliding_window=layer.window
        )
        return layer.output(attended.flatten(1), context.lora)
