"""CPU benchmark: the running server against transformers + PEFT, ratios taken in one run.

Starts `lorax-serve` with the demo model and adapters, measures it over HTTP, then runs the same
prompts through transformers and PEFT one by one in this process. Prints one JSON line per case:

    start       seconds from the command to /ready, and the engine's peak memory at the end
    concurrent  16 requests at once over base + 3 adapters, against one by one
    single      one greedy stream, against transformers' generate

    .venv/bin/python scripts/bench_cpu.py [--num-tokens 64] [--repeats 3]
"""

import argparse
import asyncio
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import torch
import transformers
from peft import PeftModel

ROOT = Path(__file__).resolve().parent.parent
ADAPTERS = ROOT / "examples" / "adapters"
PORT = 18080
URL = f"http://127.0.0.1:{PORT}"
QUESTIONS = [
    "Tell me about the weather at sea.",
    "My invoice shows the wrong amount, please correct it.",
    "Anna Keller from Berlin ordered three lamps on 4 May.",
    "Explain what a harbour is.",
    "The app closes as soon as I open the settings page.",
    "How do I bake bread?",
    "Please send the parcel to 12 Mill Lane, Leeds.",
    "What is a compass used for?",
]


class Server:
    """`lorax-serve` as its users start it, on a port of its own."""

    def __init__(self, cache_dir: Path) -> None:
        command = [Path(sys.executable).with_name("lorax-serve"), "--port", str(PORT)]
        # Repeats would find their prompts in the prefix cache; the baseline has none.
        options = ["--adapter-dir", ADAPTERS, "--cache-dir", cache_dir, "--no-prefix-cache"]
        started = time.perf_counter()
        self._process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        asyncio.run(self._until_ready())
        self.start_seconds = time.perf_counter() - started

    async def _until_ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while self._process.poll() is None:
                try:
                    async with session.get(f"{URL}/ready") as reply:
                        if reply.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.02)
        raise SystemExit("the server ended while starting; run scripts/serve to see why")

    def engine_peak_bytes(self) -> int:
        """VmHWM of the server's one child, the engine."""
        pid = self._process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for line in Path(f"/proc/{child}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise SystemExit("no VmHWM in /proc")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=30)


async def complete(session: aiohttp.ClientSession, prompt: str, model: str, num_tokens: int) -> int:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    async with session.post(f"{URL}/v1/completions", json=body) as reply:
        reply.raise_for_status()
        return int((await reply.json())["usage"]["completion_tokens"])


def served_seconds(jobs: list[tuple[str, str]], num_tokens: int) -> float:
    """Wall time of all jobs sent at once."""

    async def run() -> float:
        async with aiohttp.ClientSession() as session:
            started = time.perf_counter()
            counts = await asyncio.gather(
                *(complete(session, prompt, model, num_tokens) for model, prompt in jobs)
            )
            assert counts == [num_tokens] * len(jobs), counts
            return time.perf_counter() - started

    return asyncio.run(run())


class Baseline:
    """transformers, with PEFT where a job names an adapter; one job after another."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.chat = self._tokenizer.apply_chat_template
        self._peft: PeftModel | None = None
        self._names = names
        self._folder = folder

    def seconds(self, jobs: list[tuple[str, str]], num_tokens: int) -> float:
        started = time.perf_counter()
        for model, prompt in jobs:
            self._generate(model, prompt, num_tokens)
        return time.perf_counter() - started

    def attach_adapters(self) -> None:
        first, *others = self._names
        self._peft = PeftModel.from_pretrained(self.base, ADAPTERS / first, adapter_name=first)
        for name in others:
            self._peft.load_adapter(ADAPTERS / name, adapter_name=name)
        self._peft.eval()

    def _generate(self, model: str, prompt: str, num_tokens: int) -> None:
        inputs = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        options = {
            "max_new_tokens": num_tokens,
            "min_new_tokens": num_tokens,
            "do_sample": False,
            "pad_token_id": 0,
        }
        with torch.inference_mode():
            if self._peft is None:
                self.base.generate(**inputs, **options)
            elif model:
                self._peft.set_adapter(model)
                self._peft.generate(**inputs, **options)
            else:
                with self._peft.disable_adapter():
                    self._peft.generate(**inputs, **options)


def best(measure: Callable[[], float], repeats: int) -> float:
    return min(measure() for _ in range(repeats))


def report(case: str, **figures: object) -> None:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    line = {"case": case, **figures, "device": cpu, "threads": torch.get_num_threads()}
    print(json.dumps({**line, "versions": versions}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the CPU engine against PEFT.")
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "lorax-serve")
    args = parser.parse_args()
    folder = args.cache_dir / "models" / "SmolLM2-135M-Instruct"
    names = sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json"))
    models = ["", *names]

    server = Server(args.cache_dir)
    baseline = Baseline(folder, names)
    prompts = [
        baseline.chat(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS
    ]
    jobs = [(models[i % len(models)], prompts[(i // 2) % len(prompts)]) for i in range(16)]
    single = [("", prompts[0])]
    try:
        served_seconds(jobs, 4)  # adapters are read once, outside the figures
        served = best(lambda: served_seconds(jobs, args.num_tokens), args.repeats)
        served_single = best(lambda: served_seconds(single, args.num_tokens), args.repeats)
        peak = server.engine_peak_bytes()
    finally:
        server.stop()
    baseline.seconds(single, 4)
    generate_single = best(lambda: baseline.seconds(single, args.num_tokens), args.repeats)
    baseline.attach_adapters()
    one_by_one = baseline.seconds(jobs, args.num_tokens)

    total = len(jobs) * args.num_tokens
    report("start", ready_seconds=round(server.start_seconds, 2), engine_peak_bytes=peak)
    report(
        "concurrent",
        num_requests=len(jobs),
        num_tokens=args.num_tokens,
        tokens_per_second=round(total / served, 1),
        baseline_tokens_per_second=round(total / one_by_one, 1),
        ratio=round(one_by_one / served, 2),
    )
    report(
        "single",
        num_tokens=args.num_tokens,
        tokens_per_second=round(args.num_tokens / served_single, 1),
        baseline_tokens_per_second=round(args.num_tokens / generate_single, 1),
        ratio=round(generate_single / served_single, 2),
    )


if __name__ == "__main__":
    main()
