"""Trains the demo adapters with PEFT on the CPU, scores base and adapter, writes their folders.

    python scripts/train_demo_adapters.py [--only NAME] [--out examples/adapters]

Each takes a few minutes on two cores and, with its fixed seed, gives the same adapter again up to
the rounding that another number of threads brings.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demo_data.extract import extract_task
from demo_data.pirate import pirate_task
from demo_data.readme import Answers, readme
from demo_data.task import Example, Task
from demo_data.triage import triage_task
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from lorax_serve.server.demo import HUB_ID, prepare_demo_model

TASKS = {task.name: task for task in (pirate_task(), extract_task(), triage_task())}
SEED = 1234
BATCH_SIZE = 8
WARMUP_STEPS = 5
SCORED_ROWS = 20  # held-out prompts answered at a time
IGNORED = -100  # the label of a position that has no part in the loss


@dataclass(frozen=True)
class Batch:
    """Left-padded rows, so all answers end at the last column. All `[rows, columns]`, int64."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


class Trainer:
    """The base model and tokenizer, and what is done with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        auto_tokenizer: Any = AutoTokenizer  # untyped
        self.tokenizer = auto_tokenizer.from_pretrained(folder)

    def base(self) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        return model.eval()

    def train(self, task: Task) -> Any:
        """A PEFT model of the base with the task's adapter, trained."""
        set_seed(SEED)
        config = LoraConfig(task_type="CAUSAL_LM", **task.lora)
        model: Any = get_peft_model(self.base(), config)
        model.peft_config["default"].base_model_name_or_path = HUB_ID  # not this machine's folder
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=task.learning_rate, weight_decay=0.0)
        num_steps = task.epochs * -(-len(task.train) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1 - step / num_steps)
        )
        for step, batch in enumerate(self._batches(task), 1):
            loss = _loss(model, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            if step % 5 == 0 or step == num_steps:
                print(f"{task.name}: step {step}/{num_steps}, loss {loss.item():.3f}", flush=True)
        return model.eval()

    def answers(self, model: Any, prompts: Sequence[str], task: Task, rows: int) -> list[str]:
        """Greedy answers, `rows` prompts at a time."""
        answers: list[str] = []
        for start in range(0, len(prompts), rows):
            encoded = [self._prompt_ids(prompt) for prompt in prompts[start : start + rows]]
            input_ids, mask = self._padded(encoded)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=input_ids,
                    attention_mask=mask,
                    max_new_tokens=task.max_new_tokens,
                    do_sample=False,
                )
            new_ids = output[:, input_ids.shape[1] :]
            answers += self.tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        return answers

    def _batches(self, task: Task) -> Iterator[Batch]:
        shuffle = random.Random(SEED).shuffle
        for _ in range(task.epochs):
            examples = list(task.train)
            shuffle(examples)
            for start in range(0, len(examples), BATCH_SIZE):
                yield self._batch(examples[start : start + BATCH_SIZE])

    def _batch(self, examples: Sequence[Example]) -> Batch:
        rows, labels = [], []
        for example in examples:
            prompt = self._prompt_ids(example.prompt)
            answer = [*self.tokenizer(example.answer).input_ids, self.tokenizer.eos_token_id]
            rows.append(prompt + answer)
            labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
        input_ids, mask = self._padded(rows)
        padded = pad_sequence(labels, True, IGNORED, padding_side="left")
        return Batch(input_ids, mask, padded)

    def _prompt_ids(self, prompt: str) -> list[int]:
        messages = [{"role": "user", "content": prompt}]
        ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return ids

    def _padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded ids and their mask, `[rows, columns]`."""
        ids = [torch.tensor(row) for row in rows]
        input_ids = pad_sequence(ids, True, self.tokenizer.pad_token_id, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in ids], True, 0, padding_side="left")
        return input_ids, mask


def _loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the answer tokens; logits are computed for those columns only."""
    answered = (batch.labels != IGNORED).any(dim=0).nonzero()[0].item()
    num_answer = batch.labels.shape[1] - int(answered)
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=(batch.attention_mask.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=num_answer + 1,
        use_cache=False,
    ).logits
    targets = batch.labels[:, -num_answer:]
    return cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def save(model: Any, task: Task, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, in the task's dtype."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(getattr(torch, task.dtype))
    (folder / "README.md").unlink(missing_ok=True)  # or PEFT merges its own card into ours
    model.save_pretrained(folder, save_embedding_layers=False)
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps them as a set
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def train(trainer: Trainer, task: Task, folder: Path) -> None:
    """Makes the adapter's folder, without its README."""
    started = time.monotonic()
    save(trainer.train(task), task, folder)
    print(f"{task.name}: trained in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


def score(trainer: Trainer, task: Task, folder: Path) -> None:
    """Loads the saved adapter, scores it beside the base, and writes its README."""
    base = _answers_of(trainer, trainer.base(), task)
    four_bit = is_four_bit(trainer.base())
    adapter = _answers_of(trainer, PeftModel.from_pretrained(trainer.base(), folder), task)
    page = readme(task, HUB_ID, four_bit, base, adapter)
    (folder / "README.md").write_text(page, encoding="utf-8")
    print(f"{task.name}: base {base.score}, adapter {adapter.score}", flush=True)


def is_four_bit(model: Any) -> bool:
    """Whether the weights once had 4 bits: 32 neighbours then take 16 different values at most."""
    blocks = model.get_parameter("model.layers.0.mlp.down_proj.weight").reshape(-1, 32)
    return all(block.unique().numel() <= 16 for block in blocks[:64])


def _answers_of(trainer: Trainer, model: Any, task: Task) -> Answers:
    prompts = [example.prompt for example in task.held_out]
    held_out = trainer.answers(model, prompts, task, rows=SCORED_ROWS)
    samples = trainer.answers(model, task.samples, task, rows=1)
    return Answers(task.score(task.held_out, held_out), samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=TASKS, help="train this one; default: all")
    parser.add_argument("--score-only", action="store_true", help="do not train what is there")
    parser.add_argument("--out", type=Path, default=Path("examples/adapters"))
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/lorax-serve")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    trainer = Trainer(prepare_demo_model(given.cache_dir, print))
    for task in [TASKS[given.only]] if given.only else TASKS.values():
        if not given.score_only:
            train(trainer, task, given.out / task.name)
        score(trainer, task, given.out / task.name)


if __name__ == "__main__":
    main()
