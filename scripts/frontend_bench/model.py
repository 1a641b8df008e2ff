"""A model folder as far as a frontend looks at one: a byte-level BPE tokenizer and a chat template.

The merges are learnt from the project's own pages, as many as make tokens of a usual length; the
numbers that the stub engine generates follow them in the vocabulary.
"""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from frontend_bench.ticks import FIRST_ID, NUM_TICKS, tick_text

_PAGES = Path(__file__).resolve().parents[2] / "docs"
_END = "<|end|>"
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def pages_text() -> str:
    """What the tokenizer is trained on, and long prompts are made of."""
    return "\n".join(path.read_text() for path in sorted(_PAGES.glob("*.md")))


def write_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").touch()
    _tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _tokenizer() -> tokenizers.Tokenizer:
    learnt = tokenizers.Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=FIRST_ID,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learnt.train_from_iterator([pages_text()], trainer)
    model = json.loads(learnt.to_str())["model"]
    numbers = [tick_text(number).replace(" ", "Ġ") for number in range(NUM_TICKS)]
    vocab = model["vocab"] | {text: FIRST_ID + place for place, text in enumerate(numbers)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_END])
    return tokenizer
