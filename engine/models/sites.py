"""The linears of a model, as sites of one matmul each and targets under their published names."""

from dataclasses import dataclass

from lorax_serve.engine.models.config import ModelConfig
from lorax_serve.kernels.lora import LoraSite, LoraTarget


@dataclass(frozen=True, slots=True)
class LayerSites:
    qkv: LoraSite
    output: LoraSite
    gate_up: LoraSite
    down: LoraSite


@dataclass(frozen=True, slots=True)
class ModelSites:
    layers: tuple[LayerSites, ...]
    lm_head: LoraSite

    def in_order(self) -> tuple[LoraSite, ...]:
        """All sites; entry i has index i."""
        flat = [
            site
            for layer in self.layers
            for site in (layer.qkv, layer.output, layer.gate_up, layer.down)
        ]
        return (*flat, self.lm_head)


def model_sites(config: ModelConfig) -> ModelSites:
    layers = tuple(_layer_sites(config, layer) for layer in range(config.num_layers))
    head = _site(4 * config.num_layers, config.hidden_size, ("lm_head", config.vocab_size))
    return ModelSites(layers, head)


def out_features(site: LoraSite) -> int:
    return site.targets[-1].out_start + site.targets[-1].out_features


def _layer_sites(config: ModelConfig, layer: int) -> LayerSites:
    attention = f"model.layers.{layer}.self_attn"
    mlp = f"model.layers.{layer}.mlp"
    hidden, intermediate = config.hidden_size, config.intermediate_size
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    first = 4 * layer
    return LayerSites(
        qkv=_site(
            first,
            hidden,
            (f"{attention}.q_proj", q_size),
            (f"{attention}.k_proj", kv_size),
            (f"{attention}.v_proj", kv_size),
        ),
        output=_site(first + 1, q_size, (f"{attention}.o_proj", hidden)),
        gate_up=_site(
            first + 2, hidden, (f"{mlp}.gate_proj", intermediate), (f"{mlp}.up_proj", intermediate)
        ),
        down=_site(first + 3, intermediate, (f"{mlp}.down_proj", hidden)),
    )


def _site(index: int, in_features: int, *modules: tuple[str, int]) -> LoraSite:
    targets, start = [], 0
    for module, size in modules:
        targets.append(LoraTarget(module=module, out_start=start, out_features=size))
        start += size
    return LoraSite(index=index, in_features=in_features, targets=tuple(targets))
