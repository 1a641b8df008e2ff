"""Tokenizers of a few hundred tokens, one of each kind we serve, as Hugging Face folders.

`WRITERS` maps a kind to the function that writes it: `WRITERS["byte_level"](folder)`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "How many adapters fit on one device? As many as there is room for.",
    "She sells sea shells by the sea shore, and the shells she sells are sea shells.",
    "Numbers such as 1, 22, 333 and 4444 are split into digits.",
    "A naïve café owner paid €5 for 你好 and 😀.",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_byte_level(folder: Path, *, vocab_size: int = 384) -> Path:
    """Like SmolLM2: byte-level, single digits, nothing added around a text, ChatML."""
    tokenizer = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], vocab_size)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
    )
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
        "chat_template": CHATML,
    }
    return _save(tokenizer, folder, config)


def write_framed_byte_level(folder: Path, *, vocab_size: int = 384) -> Path:
    """Like Llama 3: byte-level, tokenizer.json itself puts bos in front."""
    tokenizer = _byte_level(["<|begin_of_text|>", "<|eot_id|>"], vocab_size)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                special_tokens=[
                    ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>")),
                ],
            ),
        ]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
    }
    return _save(tokenizer, folder, config)


def write_byte_fallback(folder: Path, *, vocab_size: int = 384) -> Path:
    """Like Llama 2: "▁" for space, byte tokens for what the vocabulary lacks, bos by class."""
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    # Only ASCII is learnt, so that anything else takes the byte tokens.
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = normalizers.Replace(" ", "▁")
    words = (text.encode("ascii", "ignore").decode() for text in CORPUS)
    learnt.train_from_iterator(
        (f" {word}" for text in words for word in text.split()),
        trainers.BpeTrainer(vocab_size=vocab_size - 259, show_progress=False),
    )
    model = json.loads(learnt.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocab = {token: i for i, token in enumerate([*special, *byte_tokens, *pieces])}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return _save(tokenizer, folder, {"tokenizer_class": "LlamaTokenizer", "legacy": False})


def write_metaspace(folder: Path, *, vocab_size: int = 384) -> Path:
    """A SentencePiece-like tokenizer whose decoder is a bare Metaspace."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    return _save(tokenizer, folder, config)


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "byte_level": write_byte_level,
    "framed_byte_level": write_framed_byte_level,
    "byte_fallback": write_byte_fallback,
    "metaspace": write_metaspace,
}
KINDS = tuple(WRITERS)


def _byte_level(special: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path, config: Mapping[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(i): token.__getstate__() for i, token in tokenizer.get_added_tokens_decoder().items()
    }
    text = json.dumps({**config, "added_tokens_decoder": added}, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder
