"""GGUF to a Hugging Face folder, against transformers' own reading of the same file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.models.demo_conversion import convert, main

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "1 2", "Ġ 1"]
TOKENS = [*SPECIAL, *LETTERS, *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


def write_gguf(
    path: Path, *, architecture: str = "llama", pre: str = "smollm", extra: str | None = None
) -> Path:
    """A tiny random llama; projections are stored as Q8_0, norms as float32."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    _add_tokenizer(writer, pre)
    generator = np.random.default_rng(0)
    for name, shape in _shapes(extra).items():
        values = generator.normal(0, 0.05, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_tokenizer(folder: Path, **options: str) -> Any:
    auto_tokenizer: Any = AutoTokenizer  # untyped
    return auto_tokenizer.from_pretrained(folder, **options)


def _add_tokenizer(writer: GGUFWriter, pre: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    kinds = [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in TOKENS]
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _shapes(extra: str | None) -> dict[str, tuple[int, ...]]:
    kv = KV_HEADS * HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN,),
            f"blk.{layer}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k.weight": (kv, HIDDEN),
            f"blk.{layer}.attn_v.weight": (kv, HIDDEN),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN,),
            f"blk.{layer}.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
            f"blk.{layer}.ffn_up.weight": (INTERMEDIATE, HIDDEN),
            f"blk.{layer}.ffn_down.weight": (HIDDEN, INTERMEDIATE),
        }
    if extra:
        shapes[extra] = (HIDDEN,)
    return shapes


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def folder(gguf_file: Path) -> Path:
    out_dir = gguf_file.parent / "converted"
    convert(gguf_file, out_dir)
    return out_dir


def test_weights_are_those_that_transformers_reads(gguf_file: Path, folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    expected = theirs.state_dict()
    assert ours.dtype == torch.bfloat16
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, expected[name].to(torch.bfloat16)), name


def test_config_says_what_the_file_says(folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    assert config.rms_norm_eps == 1e-5
    assert config.rope_theta == 100000.0
    assert config.tie_word_embeddings
    assert config.architectures == ["LlamaForCausalLM"]
    assert (config.num_attention_heads, config.num_key_value_heads) == (HEADS, KV_HEADS)
    assert "_name_or_path" not in json.loads((folder / "config.json").read_text())
    generation = model.generation_config
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)


def test_tokenizer_loads_as_gpt2_without_automatic_bos(folder: Path) -> None:
    loaded = read_tokenizer(folder)
    assert type(loaded).__name__ == "GPT2TokenizerFast"
    assert (loaded.bos_token, loaded.eos_token, loaded.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert loaded("<|im_start|>").input_ids == [1]
    chat = loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"
    assert loaded.decode(loaded(chat).input_ids, skip_special_tokens=True) == "user\nhi\n"


def test_digits_are_tokens_of_their_own(folder: Path) -> None:
    built = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert built.encode("12 the 1").tokens == ["1", "2", "Ġthe", "Ġ", "1"]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(folder: Path, text: str) -> None:
    built = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert built.decode(built.encode(text).ids, skip_special_tokens=False) == text


def test_letters_merge_as_transformers_merges_them(gguf_file: Path, folder: Path) -> None:
    theirs = read_tokenizer(gguf_file.parent, gguf_file=gguf_file.name)
    built = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ["the thing in the tin", "  then,\tthé\n", "<|im_start|>the<|im_end|>"]:
        assert built.encode(text).ids == theirs(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"architecture": "gemma"}, "general.architecture"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre"),
        ({"extra": "output.weight"}, "output.weight"),
    ],
)
def test_other_files_are_refused_by_name(
    tmp_path: Path, options: dict[str, str], named: str
) -> None:
    gguf_file = write_gguf(tmp_path / "other.gguf", **options)
    with pytest.raises(ModelRefused, match=named):
        convert(gguf_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match=named):
        main([str(gguf_file), str(tmp_path / "again")])
