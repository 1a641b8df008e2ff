"""Which of PEFT's ways to begin a training leave the base weights as they are: PEFT's own word."""

from collections.abc import Callable

import msgspec
import pytest
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model, preprocess_loraga

from lorax_serve.engine.adapters.config import parse_config
from lorax_serve.engine.adapters.refusal import Refusal
from lorax_serve.ipc.types import ErrorCode


def is_base_changed(init: bool | str) -> bool:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 12, bias=False))
    before = model[0].weight.detach().clone()
    config = LoraConfig(r=4, target_modules=["0"], init_lora_weights=init)
    if init == "lora_ga":
        config.lora_ga_config = LoraGAConfig()
        preprocess_loraga(model, config, _one_step(model))
    wrapped = get_peft_model(model, config)
    return not torch.equal(wrapped.base_model.model[0].base_layer.weight, before)


def _one_step(model: torch.nn.Module) -> Callable[[], None]:
    inputs = torch.randn(8, 16, requires_grad=True)
    return lambda: model(inputs).square().mean().backward()


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", "mica"])
def test_who_leaves_the_base_alone_is_served(init: bool | str) -> None:
    assert not is_base_changed(init)
    parse_config(msgspec.json.encode({"r": 4, "init_lora_weights": init}))


@pytest.mark.parametrize("init", ["pissa", "olora", "lora_ga"])
def test_who_changes_the_base_is_refused(init: str) -> None:
    """What such a training saves is right on the changed base only."""
    assert is_base_changed(init)
    with pytest.raises(Refusal, match="path_initial_model_for_weight_conversion") as caught:
        parse_config(msgspec.json.encode({"r": 4, "init_lora_weights": init}))
    assert caught.value.code is ErrorCode.ADAPTER_INCOMPATIBLE
