"""What is sent to the device about rows whose token is drawn, or whose log-probabilities go out."""

import math
from collections.abc import Mapping

import numpy as np

from lorax_serve.engine.sampling.filters import LOWEST_TEMPERATURE
from lorax_serve.engine.sampling.rows import SamplingRow
from lorax_serve.engine.sampling.uniform import uniforms
from lorax_serve.engine.sampling.upload import Upload
from lorax_serve.ipc.types import SamplingParams

UNIFORM = 6  # column of the settings; they are listed in kernels/triton/sampling_scores.py


class Draws:
    """Rows to draw tokens for, those without a filter first. There is at least one."""

    def __init__(self, rows: Mapping[int, SamplingRow], upload: Upload) -> None:
        """`rows` are keyed by their place in the logits."""
        filtered = [place for place, row in rows.items() if _is_filtered(row.params)]
        whole = [place for place, row in rows.items() if not _is_filtered(row.params)]
        order = whole + filtered
        self.num_whole = len(whole)
        self.params = [rows[place].params for place in order]
        numbers = uniforms(
            [params.seed for params in self.params],
            [len(rows[place].output_token_ids) for place in order],
        )
        self.index = upload.add(np.array(order, np.int64))  # [M]
        settings = [
            _columns(place, params, number)
            for place, params, number in zip(order, self.params, numbers.tolist(), strict=True)
        ]
        self.settings = upload.add(np.array(settings, np.float64))  # [M, 8]


class Asked:
    """Rows that ask for log-probabilities. There is at least one."""

    def __init__(self, counts: Mapping[int, int], vocab_size: int, upload: Upload) -> None:
        """`counts`: by place in the logits, how many of the most likely tokens are asked for."""
        self.counts = counts
        self.num_top = min(max(counts.values()), vocab_size)
        plain = SamplingParams(top_k=max(1, self.num_top))
        places = list(counts)
        self.index = upload.add(np.array(places, np.int64))  # [M]
        settings = [_columns(place, plain, 0.0) for place in places]
        self.settings = upload.add(np.array(settings, np.float64))


def _is_filtered(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0 or params.typical_p < 1


def _columns(place: int, params: SamplingParams, number: float) -> tuple[float, ...]:
    return (
        place,
        max(params.temperature, LOWEST_TEMPERATURE),
        params.top_k,
        params.top_p,
        math.log(params.min_p) if params.min_p > 0 else -math.inf,
        params.typical_p,
        number,
        0.0,
    )
