"""What a GPU runner lays its buffers out for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """The largest step there may be."""

    max_num_sequences: int
    max_batch_tokens: int
    max_model_len: int
    max_site_ranks: int  # of one adapter at one site
