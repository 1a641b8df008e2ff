"""Reads whatever a ref names, one adapter or a merge of several, for tiers of a given size.

Called on loader threads: nothing it holds ever changes, but for what is remembered of files alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
import torch

from lorax_serve.engine.adapters.blueprint import Blueprints
from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.matrices import BaseWeight
from lorax_serve.engine.adapters.merge import read_merged
from lorax_serve.engine.adapters.read_memory import ReadMemory
from lorax_serve.engine.adapters.refusal import shown
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode, MergedAdapters
from lorax_serve.kernels.lora import LoraSite

log = structlog.get_logger(__name__)

_MAX_IDLE_MEMORY = 8  # files; as many are read at a time on a GPU's host
_MAX_SHOWN_FIELDS = 5  # whoever wrote the config chose their number and their names


@dataclass(frozen=True, kw_only=True)
class AdapterReader:
    sites: Sequence[LoraSite]
    max_rank: int
    dtype: torch.dtype  # of the slabs
    device_bytes: int  # capacities of the tiers
    host_bytes: int
    base_model: str = ""  # see `read_adapter`
    base_weight: BaseWeight | None = None
    blueprints: Blueprints = field(default_factory=Blueprints)
    pause: Callable[[], None] = no_pause  # before a piece of work in Python
    memory: ReadMemory = field(default_factory=lambda: ReadMemory(_MAX_IDLE_MEMORY))

    def read(self, ref: AnyAdapterRef, watch: FileWatch) -> LoraWeights:
        """Raises AdapterRejected."""
        if isinstance(ref, MergedAdapters):
            weights = read_merged(
                ref,
                self.sites,
                max_rank=self.max_rank,
                max_elements=self._max_merged_elements,
                watch=watch,
                base_model=self.base_model,
                base_weight=self.base_weight,
            )
        else:
            weights = read_adapter(
                ref,
                self.sites,
                max_rank=self.max_rank,
                base_model=self.base_model,
                base_weight=self.base_weight,
                blueprints=self.blueprints,
                memory=self.memory,
                watch=watch,
                pause=self.pause,
            )
        self._check_size(weights)
        if weights.unknown_config_fields:
            log.warning(
                "adapter_config_fields_not_understood",
                digest=weights.digest[:12],
                fields=[shown(name) for name in weights.unknown_config_fields[:_MAX_SHOWN_FIELDS]],
                num_fields=len(weights.unknown_config_fields),
            )
        return weights

    @property
    def _max_merged_elements(self) -> int:
        """What a merge may take where its rank is ours to choose: not all of a tier, which others
        need too.
        """
        return min(self.device_bytes, self.host_bytes) // 2 // self.dtype.itemsize

    def _check_size(self, weights: LoraWeights) -> None:
        """Raises AdapterRejected when the adapter is larger than either tier."""
        num_bytes = weights.num_elements * self.dtype.itemsize
        for tier, capacity, option in (
            ("device", self.device_bytes, "--adapter-memory"),
            ("host", self.host_bytes, "--host-adapter-memory"),
        ):
            if num_bytes > capacity:
                reason = (
                    f"it takes {show_size(num_bytes)} of {tier} memory, where adapters have "
                    f"{show_size(capacity)}; the server's operator can raise {option}"
                )
                raise AdapterRejected(weights.name, ErrorCode.ADAPTER_TOO_LARGE, [reason])
