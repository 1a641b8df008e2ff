"""A good adapter broken in every known way, and how each of the results must be refused."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax_serve.ipc.types import ErrorCode
from peft_adapters import CONFIG_NAME, WEIGHTS_NAME, edit_bytes, edit_config, edit_tensors


@dataclass(frozen=True)
class BadAdapter:
    """What to do to a good rank-8 adapter on q_proj and v_proj, and how it must be refused."""

    name: str
    spoil: Callable[[Path], None]
    code: ErrorCode
    says: str  # must occur in the message


def _bytes(name: str, change: Callable[[bytes], bytes], says: str) -> BadAdapter:
    return BadAdapter(
        name, lambda folder: edit_bytes(folder, change), ErrorCode.ADAPTER_CORRUPT, says
    )


def _config_bytes(name: str, content: bytes, says: str) -> BadAdapter:
    return BadAdapter(
        name,
        lambda folder: _write(folder / CONFIG_NAME, content),
        ErrorCode.ADAPTER_CORRUPT,
        says,
    )


def _config(
    name: str, says: str, code: ErrorCode = ErrorCode.ADAPTER_INCOMPATIBLE, **fields: Any
) -> BadAdapter:
    return BadAdapter(name, lambda folder: edit_config(folder, **fields), code, says)


def _tensors(
    name: str,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    says: str,
    code: ErrorCode = ErrorCode.ADAPTER_INCOMPATIBLE,
) -> BadAdapter:
    return BadAdapter(name, lambda folder: edit_tensors(folder, change), code, says)


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _shards_only(folder: Path) -> None:
    (folder / WEIGHTS_NAME).rename(folder / "adapter_model-00001-of-00001.safetensors")


def _pickle_only(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    # A pickle that would create a file named "owned" in the folder, were it ever loaded.
    payload = b"cbuiltins\nopen\n(V" + str(folder / "owned").encode() + b"\nVw\ntR."
    (folder / "adapter_model.bin").write_bytes(payload)


def _fifo(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    os.mkfifo(folder / WEIGHTS_NAME)


def _directory(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def _folder_gone(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
_GIANT_HEADER = (1 << 40).to_bytes(8, "little")
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
_HTML = b"<!doctype html><html><body>Sign in</body></html>"
_MISSING = ErrorCode.MODEL_NOT_FOUND
_CORRUPT = ErrorCode.ADAPTER_CORRUPT
_NOT_FINITE = ErrorCode.ADAPTER_NOT_FINITE
_TOO_LARGE = ErrorCode.ADAPTER_TOO_LARGE


def _with(
    **added: torch.Tensor,
) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {**tensors, **added}


def _poisoned(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[f"{Q0}.lora_A.weight"][3, 5] = value
        return tensors

    return change


def _without(key: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {k: v for k, v in tensors.items() if k != key}


def _resized(key: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {**tensors, key: torch.ones(shape)}


BAD_ADAPTERS = (
    # files
    BadAdapter("folder gone", _folder_gone, _MISSING, "folder"),
    BadAdapter("no config", lambda f: (f / CONFIG_NAME).unlink(), _MISSING, CONFIG_NAME),
    BadAdapter("no weights", lambda f: (f / WEIGHTS_NAME).unlink(), _MISSING, WEIGHTS_NAME),
    BadAdapter("shards only", _shards_only, ErrorCode.ADAPTER_INCOMPATIBLE, "in shards"),
    BadAdapter("pickle only", _pickle_only, ErrorCode.ADAPTER_INCOMPATIBLE, "safetensors"),
    BadAdapter("fifo", _fifo, _CORRUPT, "regular file"),
    BadAdapter("weights a directory", _directory(WEIGHTS_NAME), _CORRUPT, "regular file"),
    BadAdapter("config a directory", _directory(CONFIG_NAME), _CORRUPT, "regular file"),
    _bytes("empty", lambda data: b"", "empty"),
    _bytes("seven bytes", lambda data: data[:7], "safetensors"),
    _bytes("truncated header", lambda data: data[:60], "safetensors"),
    _bytes("truncated body", lambda data: data[:-10], "safetensors"),
    _bytes("extra bytes", lambda data: data + b"\0" * 16, "safetensors"),
    _bytes("giant header", lambda data: _GIANT_HEADER + data[8:], "safetensors"),
    _bytes("html", lambda data: _HTML, "HTML"),
    _bytes("lfs pointer", lambda data: _LFS, "git-lfs"),
    _tensors("nan", _poisoned(float("nan")), "NaN", _NOT_FINITE),
    _tensors("infinity", _poisoned(float("inf")), "NaN or infinity", _NOT_FINITE),
    # config as a file
    _config_bytes("config empty", b"", "empty"),
    _config_bytes("config not JSON", b"{'r': 8}", "JSON"),
    _config_bytes("config cut", b'{"r": 8, "lora_al', "JSON"),
    _config_bytes("config not UTF-8", b'{"r": 8, "x": "\xff"}', "JSON"),
    _config_bytes("config only a BOM", b"\xef\xbb\xbf", "JSON"),
    _config_bytes("config UTF-16", '{"r": 8}'.encode("utf-16"), "JSON"),
    _config_bytes("config deep", b"[" * 100_000, "JSON"),
    _config_bytes("config html", _HTML, "HTML"),
    _config_bytes("config lfs pointer", _LFS, "git-lfs"),
    _config_bytes("config a list", b'[{"r": 8}]', "object"),
    _config_bytes("config NaN", b'{"r": 8, "lora_alpha": NaN}', "JSON"),
    _config_bytes("config 1e999", b'{"r": 8, "lora_alpha": 1e999}', "JSON"),
    # absurd values
    _config("rank zero", "`$.r`", _CORRUPT, r=0),
    _config("rank negative", "`$.r`", _CORRUPT, r=-8),
    _config("rank a fraction", "`$.r`", _CORRUPT, r=8.5),
    _config("rank a string", "`$.r`", _CORRUPT, r="8"),
    _config("rank true", "`$.r`", _CORRUPT, r=True),
    _config("alpha a string", "`$.lora_alpha`", _CORRUPT, lora_alpha="16"),
    _config("alpha beyond float", "`$.lora_alpha`", _CORRUPT, lora_alpha=10**400),
    _config("pattern rank zero", "rank_pattern", _CORRUPT, rank_pattern={"q_proj": 0}),
    _config("pattern alpha null", "alpha_pattern", _CORRUPT, alpha_pattern={"q_proj": None}),
    _config("targets numbers", "target_modules", _CORRUPT, target_modules=[1]),
    # features that are not served
    _config("prompt tuning", "PROMPT_TUNING", peft_type="PROMPT_TUNING", r=...),
    _config("no type, no rank", "peft_type", peft_type=..., r=...),
    _config("dora", "use_dora", use_dora=True),
    _config("modules to save", "modules_to_save", modules_to_save=["lm_head"]),
    _config("trainable tokens", "trainable_token_indices", trainable_token_indices=[1]),
    _config("lora bias", "lora_bias", lora_bias=True),
    _config("pissa", "init_lora_weights='pissa'", init_lora_weights="pissa"),
    _config("pissa niter", "pissa_niter_16", init_lora_weights="pissa_niter_16"),
    _config("olora", "olora", init_lora_weights="olora"),
    _config("corda", "corda", init_lora_weights="corda"),
    _config("loftq", "loftq", init_lora_weights="loftq"),
    _config("lora-ga", "lora_ga", init_lora_weights="lora_ga"),
    _config("unknown init", "futura", init_lora_weights="futura"),
    _config("layer replication", "layer_replication", layer_replication=[[0, 2]]),
    _config("alora", "alora_invocation_tokens", alora_invocation_tokens=[1, 2]),
    _config("qalora", "use_qalora", use_qalora=True),
    _config("bdlora", "use_bdlora", use_bdlora={"target_modules_bd_a": ["q_proj"]}),
    _config("velora", "velora_config", velora_config={"num_groups": 2}),
    _config("kasa", "kasa_config", kasa_config={"beta": 0.1}),
    _config("arrow", "arrow_config", arrow_config={"top_k": 3}),
    _config("monteclora", "monteclora_config", monteclora_config={"num_samples": 2}),
    _config("parameters", "target_parameters", target_parameters=["mlp.experts.w"]),
    _config("megatron", "megatron_config", megatron_config={"a": 1}),
    _config("layers_pattern alone", "layers_pattern", layers_pattern=["layers"]),
    _config(
        "regex and layers",
        "layers_to_transform",
        target_modules=".*_proj",
        layers_to_transform=[0],
    ),
    _config("lookahead", "target_modules", target_modules="(?!x).*_proj"),
    _config("bad regex", "target_modules", target_modules="(q_proj"),
    _config("long regex", "target_modules", target_modules="q" * 513),
    _config("bad pattern key", "rank_pattern", rank_pattern={"(?<=a)q": 4}),
    _config("many patterns", "alpha_pattern", alpha_pattern={f"q{i}*": 4 for i in range(257)}),
    # tensors
    _tensors("no tensors", lambda tensors: {}, "no LoRA"),
    _tensors("A without B", _without(f"{Q0}.lora_B.weight"), "lora_B"),
    _tensors("B without A", _without(f"{Q0}.lora_A.weight"), "lora_A"),
    _tensors("wrong base width", _resized(f"{Q0}.lora_A.weight", 8, 48), "(8, 48)"),
    _tensors("wrong base output", _resized(f"{Q0}.lora_B.weight", 48, 8), "(48, 8)"),
    _tensors("ranks disagree", _resized(f"{Q0}.lora_B.weight", 64, 4), "(64, 4)"),
    _tensors("one dimension", _resized(f"{Q0}.lora_A.weight", 512), "(512,)"),
    _tensors("ungathered shard", _resized(f"{Q0}.lora_A.weight", 0), "(0,)"),
    _config("config rank differs", "matrices of rank 8, adapter_config.json says 4", r=4),
    _config("pattern rank differs", "json says 4", rank_pattern={"layers.0.self_attn.q_proj": 4}),
    _config("outside targets", "target_modules", target_modules=["q_proj"]),
    _config("outside regex", "target_modules", target_modules=r".*\.q_proj"),
    _config("excluded module", "exclude_modules", exclude_modules=["v_proj"]),
    _config("outside layers", "layers_to_transform", layers_to_transform=[1]),
    _tensors(
        "unknown module",
        _with(
            **{
                "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.ones(8, 64),
                "base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight": torch.ones(64, 8),
            }
        ),
        "layers.7",
    ),
    _tensors(
        "magnitude vector",
        _with(**{f"{Q0}.lora_magnitude_vector": torch.ones(64)}),
        "DoRA",
    ),
    _tensors(
        "embedding matrices",
        _with(
            **{
                "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(8, 128),
                "base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(64, 8),
            }
        ),
        "embed",
    ),
    _tensors(
        "full tensor", _with(**{"base_model.model.lm_head.weight": torch.ones(128, 64)}), "lm_head"
    ),
    _tensors(
        "copy of the base",
        _with(**{"base_model.model.lm_head.base_layer.weight": torch.ones(128, 64)}),
        "save_embedding_layers",
    ),
    _tensors("trained bias", _with(**{f"{Q0}.bias": torch.ones(64)}), "bias"),
    _tensors("lora_B bias", _with(**{f"{Q0}.lora_B.bias": torch.ones(64)}), "bias"),
    _tensors(
        "trainable tokens delta",
        _with(
            **{
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (
                    torch.ones(1, 64)
                )
            }
        ),
        "trainable",
    ),
    _tensors("no prefix", _with(**{"q_proj.lora_A.weight": torch.ones(8, 64)}), "q_proj"),
    _tensors(
        "the same matrix twice",
        _with(**{f"{Q0}.lora_A.default.weight": torch.ones(8, 64)}),
        "twice",
    ),
    _tensors(
        "double precision",
        lambda tensors: {k: v.double() for k, v in tensors.items()},
        "F64",
    ),
    _tensors(
        "integers",
        lambda tensors: {k: v.to(torch.int8) for k, v in tensors.items()},
        "I8",
    ),
    BadAdapter(
        "rank over the maximum",
        lambda folder: _grow_rank(folder, 80),
        _TOO_LARGE,
        "80",
    ),
)


def _grow_rank(folder: Path, rank: int) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            key: torch.ones(rank, 64) if "lora_A" in key else torch.ones(value.shape[0], rank)
            for key, value in tensors.items()
        }

    edit_tensors(folder, change)
    edit_config(folder, r=rank)


MAX_RANK = 64  # of the reader that meets BAD_ADAPTERS
