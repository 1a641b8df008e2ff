"""One tenant at ten times its share beside twenty quiet ones; and the quiet ones alone.

Requests arrive by steps, not by the clock: a step of sixteen rows takes a CPU twice as long as one
of six, so by the clock a neighbour that fills the places makes everybody's tokens slow, whatever
the order in which they are served. On a GPU such steps take about the same time. Waits are reported
both ways.
"""

import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from exchange_cases.driver import LocalEngine, Trip
from exchange_cases.figures import milliseconds, percentile, report
from exchange_cases.model import adapter_bytes, model_config, random_model, write_adapters
from exchange_cases.sizes import DEVICE_SLOTS, HOST_SLOTS
from lorax_serve.ipc.types import AdapterRef

NUM_QUIET, NOISY_SHARE = 20, 10
NUM_NOISY_ADAPTERS = 100
NUM_TOKENS = 16
SHORT_PROMPT, LONG_PROMPT = 4, 400


def neighbour(scale: float) -> None:
    """Open loop: quiet tenants at 0.8 of their share of the capacity, beside one more tenant that
    keeps to its share, and beside the same one at ten times its share, over a hundred adapters,
    with prompts like theirs and with long ones.
    """
    model = random_model(model_config(hidden_size=256, num_layers=4))
    size = adapter_bytes(model)
    num_steps = max(400, int(5000 * scale))
    cases = {
        "alone": (0, SHORT_PROMPT),
        "isolated": (1, SHORT_PROMPT),
        "beside_noisy": (NOISY_SHARE, SHORT_PROMPT),
        "beside_long_prompts": (NOISY_SHARE, LONG_PROMPT),
    }
    with tempfile.TemporaryDirectory() as folder:
        refs = write_adapters(Path(folder), model, NUM_QUIET + NUM_NOISY_ADAPTERS)
        options = {
            "adapter_pool_bytes": DEVICE_SLOTS * size,
            "host_adapter_bytes": HOST_SLOTS * size,
            "max_num_sequences": 16,
        }
        with LocalEngine(model, **options) as engine:
            share = capacity(engine, refs) / (NUM_QUIET + 1)
        trips = {}
        for kind, (times, num_prompt) in cases.items():
            with LocalEngine(model, **options) as engine:
                for index, ref in enumerate(refs):
                    engine.submit(f"warm-{index}", [1, 2, 3], ref, num_tokens=1)
                engine.run(lambda: False)
                arriving = arrivals(num_steps, 0.8 * share, times * share)
                trips[kind] = quiet_trips(engine, refs, arriving, num_prompt)
    steps = {kind: [1 + trip.first_token_steps for trip in each] for kind, each in trips.items()}
    seconds = {kind: [trip.first_token_seconds for trip in each] for kind, each in trips.items()}
    p99 = {kind: percentile(each, 99) for kind, each in steps.items()}
    report(
        case="neighbour",
        requests_per_step_share=round(share, 4),
        num_quiet_requests={kind: len(each) for kind, each in trips.items()},
        quiet_first_token_p50_steps={k: percentile(each, 50) for k, each in steps.items()},
        quiet_first_token_p99_steps=p99,
        p99_over_isolated=round(p99["beside_noisy"] / p99["isolated"], 2),
        p99_over_alone=round(p99["beside_noisy"] / p99["alone"], 2),
        p99_over_isolated_long_prompts=round(p99["beside_long_prompts"] / p99["isolated"], 2),
        quiet_first_token_p50_ms={k: milliseconds(percentile(v, 50)) for k, v in seconds.items()},
        quiet_first_token_p99_ms={k: milliseconds(percentile(v, 99)) for k, v in seconds.items()},
    )


def capacity(engine: LocalEngine, refs: Sequence[AdapterRef]) -> float:
    """Requests a step when there are always more."""
    num_requests = 200
    for index in range(num_requests):
        ref = refs[index % NUM_QUIET]
        engine.submit(str(index), [1] * SHORT_PROMPT, ref, num_tokens=NUM_TOKENS)
    engine.run(lambda: False)
    return num_requests / engine.num_steps


def arrivals(num_steps: int, quiet_rate: float, noisy_rate: float) -> list[tuple[float, str]]:
    """Who arrives before which step, each tenant by a Poisson process."""
    rng = random.Random(3)
    clients = [(f"quiet-{index}", quiet_rate) for index in range(NUM_QUIET)]
    clients += [("noisy", noisy_rate)] if noisy_rate else []

    def times(rate: float) -> Iterator[float]:
        gaps = iter(lambda: rng.expovariate(rate), None)
        return itertools.takewhile(lambda at: at < num_steps, itertools.accumulate(gaps))

    return sorted((at, name) for name, rate in clients for at in times(rate))


def quiet_trips(
    engine: LocalEngine,
    refs: Sequence[AdapterRef],
    arriving: Sequence[tuple[float, str]],
    num_noisy_prompt: int,
) -> list[Trip]:
    """The quiet tenants' requests, once they have ended. The noisy one cycles its adapters."""
    quiet: list[Trip] = []
    num_sent = 0
    for step in itertools.count():
        while num_sent < len(arriving) and arriving[num_sent][0] <= step:
            tenant = arriving[num_sent][1]
            is_noisy = tenant == "noisy"
            ref = NUM_QUIET + num_sent % NUM_NOISY_ADAPTERS if is_noisy else int(tenant[6:])
            prompt = [1] * (num_noisy_prompt if is_noisy else SHORT_PROMPT)
            name = f"{tenant}:{num_sent}"
            engine.submit(name, prompt, refs[ref], num_tokens=NUM_TOKENS, tenant=tenant)
            if not is_noisy:
                quiet.append(engine.trips[name])
            num_sent += 1
        if num_sent == len(arriving) and all(trip.has_ended for trip in quiet):
            return quiet
        if not engine.step():
            engine.wait(0.0005)
    raise AssertionError("the count has no end")
