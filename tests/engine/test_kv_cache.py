from pathlib import Path

import pytest
import torch

from lorax_serve.engine.kv_cache import KVCache, bytes_per_block
from lorax_serve.engine.models.config import load_model_config
from tiny_models import build_tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_zeros_and_size(dtype: torch.dtype, tmp_path: Path) -> None:
    build_tiny_model("qwen3", tmp_path)  # head size 32, not 64 / 4
    config = load_model_config(tmp_path)
    cache = KVCache(config, 7, 4, dtype=dtype, device=torch.device("cpu"))
    assert len(cache.layers) == config.num_layers
    assert all(layer.shape == (7, 4, 2, 2, 32) for layer in cache.layers)
    assert not any(layer.any() for layer in cache.layers)
    assert sum(layer.nbytes for layer in cache.layers) == 7 * bytes_per_block(config, 4, dtype)
