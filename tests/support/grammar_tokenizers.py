"""Small tokenizers of the kinds that Llama-family models have, as tokenizer.json files."""

from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
VISIBLE_ADDED_TOKEN = "<tool_call>"  # not special, so decoders print it

EOS_TOKEN_IDS = (2, 0)  # of byte_level_tokenizer
VOCAB_SIZE = 700  # of logits: wider than any tokenizer here, and no multiple of 32

# Repeated emoji and CJK make the trainer merge pieces of characters into tokens.
TRAINING_TEXT = [
    '{"name": "Ann", "age": 41, "tags": ["new", "red"], "paid": true, "total": 4.5}',
    '{\n  "name": "New York",\n  "items": [\n    1,\n    2\n  ],\n  "none": null\n}',
    "the quick brown fox jumps over the lazy dog, 2024-02-29 and 10.0.0.1",
    "größe 日本 東京 日本語 😀 😁 😂 🤖 ééé ÄÖÜ",
] * 8


def byte_level_tokenizer(*, with_visible_added_token: bool = False) -> Tokenizer:
    """GPT-2's kind: ids 0 to 2 are CONTROL_TOKENS, then 256 bytes, then merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if with_visible_added_token:
        tokenizer.add_tokens([AddedToken(VISIBLE_ADDED_TOKEN, special=False, normalized=False)])
    return tokenizer


def sentencepiece_tokenizer() -> Tokenizer:
    """Llama 2's kind: ids 0 to 2 are <unk>, <s>, </s>, then 256 byte pieces, then text."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for character in '▁ abcdefghijklmnopqrstuvwxyzABC0123456789{}[]":,.-é日':
        vocab.setdefault(character, len(vocab))
    merges = [("▁", "a"), ("n", "a"), ("na", "m"), ("nam", "e"), ('"', ":"), ("▁", "{")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
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
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def unigram_tokenizer() -> Tokenizer:
    """T5's kind: a Unigram model whose vocabulary is a list, with a Metaspace decoder."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("he", -3.5)]
    pieces += [(character, -4.0) for character in "abcdefgth{}"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
