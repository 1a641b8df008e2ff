"""From a Hugging Face folder to a Decoder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorax_serve.engine.models.config import ModelConfig, load_model_config
from lorax_serve.engine.models.decoder import Decoder, DecoderLayer, QKNorm
from lorax_serve.engine.models.linear import Linear, WeightLayout, empty_weight
from lorax_serve.engine.models.rope_scaling import inverse_frequencies
from lorax_serve.engine.models.sites import LayerSites, model_sites, out_features
from lorax_serve.engine.models.weights import fill
from lorax_serve.kernels.decoder_kernels import DecoderKernels
from lorax_serve.kernels.lora import LoraSite
from lorax_serve.kernels.torch_decoder_kernels import TorchDecoderKernels

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


def load_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    report: Callable[[float], None],
) -> Decoder:
    """Reads config.json and the safetensors of `folder`; weights are converted to `dtype`.

    `report` gets fractions from 0 to 1. Raises ModelRefused, naming the fields or tensors that
    are missing, unexpected, of the wrong shape or of an unknown kind.
    """
    config = load_model_config(folder)
    decoder, destinations = allocate_model(config, device=device, dtype=dtype)
    fill(
        destinations,
        folder,
        tolerated=lambda name: _is_tolerated(name, config),
        report=report,
    )
    return decoder


def allocate_model(
    config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[Decoder, dict[str, torch.Tensor]]:
    """A model whose weights are not filled in yet, and where each published tensor belongs."""
    layout = WeightLayout.TRANSPOSED if device.type == "cpu" else WeightLayout.ROW_MAJOR
    parameters = _Parameters(layout, dtype, device)
    decoder = _build_decoder(config, parameters, _decoder_kernels(config.rms_norm_eps, device))
    return decoder, parameters.destinations


def _decoder_kernels(eps: float, device: torch.device) -> DecoderKernels:
    if device.type == "cuda":
        # A process without a GPU never imports Triton.
        from lorax_serve.kernels.triton.decoder_kernels import TritonDecoderKernels

        return TritonDecoderKernels(eps)
    return TorchDecoderKernels(torch.tensor(eps))


def _is_tolerated(name: str, config: ModelConfig) -> bool:
    """Tensors some published checkpoints carry although config.json already says all they do."""
    if name.endswith("rotary_emb.inv_freq"):
        return True
    return name == _HEAD and config.tie_word_embeddings


@dataclass(frozen=True, slots=True)
class _Parameters:
    """Allocates the model's tensors and notes which published tensor fills which part of them."""

    layout: WeightLayout
    dtype: torch.dtype
    device: torch.device
    destinations: dict[str, torch.Tensor] = field(default_factory=dict)

    def vector(self, name: str, size: int) -> torch.Tensor:
        return self._register(name, torch.empty(size, dtype=self.dtype, device=self.device))

    def matrix(
        self, name: str, num_rows: int, num_columns: int, layout: WeightLayout
    ) -> torch.Tensor:
        weight = empty_weight(
            num_rows, num_columns, layout=layout, dtype=self.dtype, device=self.device
        )
        return self._register(name, weight)

    def linear(self, site: LoraSite, *, has_bias: bool) -> Linear:
        """One matmul; each target's published weight and bias fill its rows."""
        num_rows = out_features(site)
        weight = empty_weight(
            num_rows, site.in_features, layout=self.layout, dtype=self.dtype, device=self.device
        )
        bias = torch.empty(num_rows, dtype=self.dtype, device=self.device) if has_bias else None
        for target in site.targets:
            rows = slice(target.out_start, target.out_start + target.out_features)
            self._register(f"{target.module}.weight", weight[rows])
            if bias is not None:
                self._register(f"{target.module}.bias", bias[rows])
        return Linear(weight, bias, site)

    def _register(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        self.destinations[name] = tensor
        return tensor


def _build_decoder(
    config: ModelConfig, parameters: _Parameters, kernels: DecoderKernels
) -> Decoder:
    sites = model_sites(config)
    vocab_size, hidden_size = config.vocab_size, config.hidden_size
    if config.tie_word_embeddings:
        # One tensor for both, laid out for the head's product: a lookup reads far less of it.
        embedding = parameters.matrix(_EMBEDDING, vocab_size, hidden_size, parameters.layout)
        lm_head = Linear(embedding, None, sites.lm_head)
    else:
        embedding = parameters.matrix(_EMBEDDING, vocab_size, hidden_size, WeightLayout.ROW_MAJOR)
        lm_head = parameters.linear(sites.lm_head, has_bias=False)
    layers = tuple(
        _build_layer(config, parameters, f"model.layers.{index}", layer_sites, window)
        for index, (layer_sites, window) in enumerate(
            zip(sites.layers, config.layer_windows, strict=True)
        )
    )
    final_norm = parameters.vector("model.norm.weight", hidden_size)
    return Decoder(
        config=config,
        sites=sites.in_order(),
        num_parameters=sum(tensor.numel() for tensor in parameters.destinations.values()),
        inverse_frequencies=inverse_frequencies(config.rope, config.head_dim).to(parameters.device),
        kernels=kernels,
        embedding=embedding,
        layers=layers,
        final_norm=final_norm,
        lm_head=lm_head,
    )


def _build_layer(
    config: ModelConfig,
    parameters: _Parameters,
    prefix: str,
    sites: LayerSites,
    window: int | None,
) -> DecoderLayer:
    attention = f"{prefix}.self_attn"
    qk_norm = None
    if config.qk_norm:
        qk_norm = QKNorm(
            q=parameters.vector(f"{attention}.q_norm.weight", config.head_dim),
            k=parameters.vector(f"{attention}.k_norm.weight", config.head_dim),
        )
    hidden_size = config.hidden_size
    return DecoderLayer(
        input_norm=parameters.vector(f"{prefix}.input_layernorm.weight", hidden_size),
        qkv=parameters.linear(sites.qkv, has_bias=config.qkv_bias),
        qk_norm=qk_norm,
        output=parameters.linear(sites.output, has_bias=config.output_bias),
        mlp_norm=parameters.vector(f"{prefix}.post_attention_layernorm.weight", hidden_size),
        gate_up=parameters.linear(sites.gate_up, has_bias=config.mlp_bias),
        down=parameters.linear(sites.down, has_bias=config.mlp_bias),
        window=window,
    )
