"""`python -P -m lorax_serve.engine.check_adapter`: can this folder be served, and if not why?

Reads one AdapterCheck on standard input, and of the model its config.json. Only an adapter that
carries a full copy of a tensor of the model has that one tensor read too.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import torch

from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.slab import fill_slab, layout_of
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.assembly import engine_device, served_dtype
from lorax_serve.engine.errors import AdapterRejected, ModelRefused
from lorax_serve.engine.models.config import load_model_config
from lorax_serve.engine.models.sites import model_sites
from lorax_serve.engine.models.weights import read_tensor
from lorax_serve.engine.refusal_reasons import grouped
from lorax_serve.ipc.adapter_check import AdapterCheck
from lorax_serve.ipc.types import AdapterRef
from lorax_serve.kernels.lora import LoraSite

EXIT_SERVABLE = 0
EXIT_REFUSED = 1
EXIT_NO_MODEL = 2


def main() -> int:
    check = msgspec.json.decode(sys.stdin.buffer.readline(), type=AdapterCheck)
    try:
        lines = describe(check)
    except AdapterRejected as rejected:
        reasons = (f"  - {reason}" for reason in grouped(rejected.reasons))
        _say((f"{check.path} cannot be served:", *reasons))
        return EXIT_REFUSED
    except ModelRefused as refused:
        sys.stderr.write(f"lorax-serve: {refused}\n")
        return EXIT_NO_MODEL
    _say((f"{check.path} can be served.", *lines))
    return EXIT_SERVABLE


def describe(check: AdapterCheck) -> list[str]:
    """What there is to say of an adapter that can be served.

    Raises AdapterRejected with every reason that was found, and ModelRefused.
    """
    folder = Path(check.engine.model_path)
    config = load_model_config(folder)
    sites = model_sites(config).in_order()
    dtype = served_dtype(check.engine.dtype, engine_device(check.engine.device), config)
    # A tied head is the embedding under another name.
    head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"

    def base_weight(module: str) -> torch.Tensor | None:
        if module not in ("lm_head", "model.embed_tokens"):
            return None
        tensor = read_tensor(folder, f"{head if module == 'lm_head' else module}.weight")
        return None if tensor is None else tensor.to(dtype)

    weights = read_adapter(
        AdapterRef(Path(check.path).name, check.path, ""),
        sites,
        max_rank=check.engine.max_adapter_rank,
        base_model=check.engine.model_name,
        base_weight=base_weight,
    )
    layout = layout_of(weights, sites, transposed_a=False)
    slab = torch.empty(layout.num_elements, dtype=dtype)
    fill_slab(slab, weights, layout)
    lines = [
        f"  rank     {_ranks(weights)}",
        f"  targets  {_targets(weights, sites)}",
        f"  memory   {slab.nbytes:,} bytes in {str(dtype).removeprefix('torch.')}",
    ]
    if weights.head is not None:
        kind, number = weights.head.kind.value, weights.head.shape.num_labels
        lines.append(f"  head     of {number} labels for each {kind}: it classifies")
    if weights.unknown_config_fields:
        lines.append(f"  ignored  {', '.join(weights.unknown_config_fields)}: not understood, and")
        lines.append("           without effect on the weights")
    return lines


def _ranks(weights: LoraWeights) -> str:
    ranks = {matrices.rank for matrices in weights.matrices.values()}
    return f"{min(ranks)}" if len(ranks) == 1 else f"{min(ranks)} to {max(ranks)}"


def _targets(weights: LoraWeights, sites: Iterable[LoraSite]) -> str:
    """Kinds of modules, and of how many layers where that is not all of them."""
    there = Counter(target.module.rpartition(".")[2] for site in sites for target in site.targets)
    here = Counter(module.rpartition(".")[2] for module in weights.matrices)
    return ", ".join(
        kind if here[kind] == total else f"{kind} ({here[kind]} of {total})"
        for kind, total in there.items()
        if here[kind]
    )


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
