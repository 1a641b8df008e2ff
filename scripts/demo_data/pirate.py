"""Style: the same answers, told by a pirate."""

import random
import re
from collections.abc import Sequence

from demo_data.pirate_answers import HELD_OUT, TRAIN
from demo_data.task import Example, Task

SEED = 7
TELLINGS = 3  # each training answer is told this many times, with other flourishes

OPENERS = (
    "Arr, matey!",
    "Ahoy, shipmate!",
    "Avast, ye landlubber!",
    "Shiver me timbers!",
    "Yo ho ho!",
    "Aye, me hearty!",
    "Blimey, matey!",
    "Arr, hear me well!",
)
CLOSERS = (
    "Savvy?",
    "Yo ho ho!",
    "Now hoist th' sails!",
    "Mark me words, matey!",
    "Now pass th' grog, arr!",
    "By Davy Jones, that be true!",
    "Fair winds to ye, me hearty!",
    "Or ye shall walk th' plank!",
)
WORDS = {
    "the": "th'",
    "of": "o'",
    "and": "an'",
    "for": "fer",
    "is": "be",
    "are": "be",
    "am": "be",
    "you": "ye",
    "your": "yer",
    "my": "me",
    "yes": "aye",
    "hello": "ahoy",
    "friend": "matey",
    "friends": "mateys",
    "people": "folk",
    "captain": "cap'n",
    "money": "doubloons",
}
MARKER = re.compile(
    r"(?<![\w'])(arr|ahoy|avast|aye|matey|mateys|hearty|hearties|landlubber|shipmate|savvy|ye|yer|"
    r"th'|o'|an'|fer|me timbers|yo ho|davy jones|grog|plank|cap'n|blimey|scallywag|doubloons|"
    r"fair winds)(?!\w)"
)


def pirate_task() -> Task:
    held_out = [Example(question, keyword) for question, keyword in HELD_OUT]
    return Task(
        name="pirate",
        title="answers in pirate speech",
        summary="Answers any question the way a pirate would.",
        train=_tellings(),
        held_out=held_out,
        held_out_is="questions of which none is a training one, though more than a third are a "
        "training question with a word or two changed, such as the capital of another country",
        score=score,
        metric_notes={
            "pirate speech": "the answer has at least three different pirate markers of a list",
            "expected word": "the answer holds the word expected of it, such as Paris for the "
            "capital of France; the base answers at more length and so has more chances",
        },
        samples=[
            "What is the capital of France?",
            "How do I stay healthy?",
            "Why do birds sing?",
        ],
        lora={
            "r": 16,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "layers_to_transform": list(range(15, 30)),
        },
        dtype="bfloat16",
        epochs=1,
        learning_rate=8e-4,
        max_new_tokens=80,
    )


def score(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
    style = sum(num_markers(answer) >= 3 for answer in answers)
    right = sum(e.answer in a.lower() for e, a in zip(examples, answers, strict=True))
    return {"pirate speech": style / len(answers), "expected word": right / len(answers)}


def num_markers(text: str) -> int:
    """How many different markers `text` holds, as whole words."""
    return len(set(MARKER.findall(text.lower().replace("\u2019", "'"))))


def in_pirate_words(text: str) -> str:
    """Plain English with a pirate's words and a pirate's -in'."""

    def replace(found: re.Match[str]) -> str:
        word = found.group()
        told = WORDS.get(word.lower())
        if told is None:
            return re.sub(r"^(\w*[aeiouy]\w*)ing$", r"\1in'", word)
        return told.capitalize() if word[0].isupper() else told

    return re.sub(r"[A-Za-z]+", replace, text)


def _tellings() -> list[Example]:
    draw = random.Random(SEED)
    return [
        Example(
            question, f"{draw.choice(OPENERS)} {in_pirate_words(answer)} {draw.choice(CLOSERS)}"
        )
        for question, answer in TRAIN
        for _ in range(TELLINGS)
    ]
