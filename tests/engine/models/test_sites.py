"""Sites must name exactly the linears PEFT could adapt, and number them in order."""

from pathlib import Path

import torch

from lorax_serve.engine.models.config import load_model_config
from lorax_serve.engine.models.sites import model_sites, out_features
from tiny_models import build_tiny_model


def test_targets_are_the_linears_of_the_published_model(tmp_path: Path) -> None:
    oracle = build_tiny_model("qwen3", tmp_path)
    expected = {
        name: (module.in_features, module.out_features)
        for name, module in oracle.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    sites = model_sites(load_model_config(tmp_path)).in_order()
    ours = {
        target.module: (site.in_features, target.out_features)
        for site in sites
        for target in site.targets
    }
    assert ours == expected
    assert [site.index for site in sites] == list(range(len(sites)))


def test_fused_targets_lie_side_by_side(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    sites = model_sites(load_model_config(tmp_path))
    qkv = sites.layers[1].qkv
    assert [target.module.rpartition(".")[2] for target in qkv.targets] == [
        "q_proj",
        "k_proj",
        "v_proj",
    ]
    assert [target.out_start for target in qkv.targets] == [0, 64, 96]
    assert out_features(qkv) == 128
