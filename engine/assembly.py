"""Builds the engine from its config: the one place that knows every part."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.block_allocator import BlockAllocator
from lorax_serve.engine.core import EngineCore, Link, StepRunner
from lorax_serve.engine.device_defaults import StepLimits, max_loading, step_limits
from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.execution import Execution, build_execution
from lorax_serve.engine.intake import GuideSource, Intake
from lorax_serve.engine.lull import Lull, no_pause
from lorax_serve.engine.models.config import ModelConfig, load_eos_token_ids, load_model_config
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.models.loader import load_model
from lorax_serve.engine.scheduler import Scheduler
from lorax_serve.engine.sequence_blocks import SequenceBlocks
from lorax_serve.grammar.errors import UnsupportedTokenizer
from lorax_serve.grammar.guide import GuideFactory
from lorax_serve.ipc.config import Device, DType, EngineConfig
from lorax_serve.ipc.messages import EngineReady
from lorax_serve.ipc.types import EngineInfo

TYPICAL_RANK = 16  # for the "adapters that fit" figure


@dataclass(frozen=True)
class EngineParts:
    info: EngineInfo
    intake: Intake
    scheduler: Scheduler
    exchange: AdapterExchange
    runner: StepRunner
    lull: Lull

    def core(self, link: Link, ready: EngineReady) -> EngineCore:
        """The loop over these parts; `ready` is what a frontend is told that says hello."""
        return EngineCore(
            link=link,
            ready=ready,
            intake=self.intake,
            scheduler=self.scheduler,
            exchange=self.exchange,
            runner=self.runner,
            lull=self.lull,
        )


def assemble(
    config: EngineConfig, *, report: Callable[[str, float], None], on_loaded: Callable[[], None]
) -> EngineParts:
    """Load the model and lay out its memory.

    `report(phase, fraction)` is told about progress; `on_loaded` is called, from another thread,
    whenever an adapter has been read. Raises ModelRefused.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    folder = Path(config.model_path)
    model_config = load_model_config(folder)
    device = engine_device(config.device)
    model = load_model(
        folder,
        device=device,
        dtype=served_dtype(config.dtype, device, model_config),
        report=lambda f: report("Loading weights", f),
    )
    eos_token_ids = load_eos_token_ids(folder)
    report("Preparing grammars", 0.0)
    guides = _guides(folder / "tokenizer.json", model_config.vocab_size, eos_token_ids)
    report("Preparing grammars", 1.0)
    return assemble_model(config, model, eos_token_ids, guides, report=report, on_loaded=on_loaded)


def assemble_model(
    config: EngineConfig,
    model: Decoder,
    eos_token_ids: tuple[int, ...],
    guides: GuideSource,
    *,
    report: Callable[[str, float], None],
    on_loaded: Callable[[], None],
) -> EngineParts:
    """The engine of a model that is loaded."""
    device = model.embedding.device
    limits = step_limits(config, device)
    lull = Lull()
    execution = build_execution(config, model, limits, device, report)
    exchange = AdapterExchange(
        execution.slabs,
        execution.host_adapters,
        model.sites,
        max_rank=config.max_adapter_rank,
        max_loading=max_loading(config, device),
        max_slots_per_tenant=config.max_slots_per_tenant,
        on_loaded=on_loaded,
        # On a CPU the loop gives the interpreter away as long as it computes.
        pause=no_pause if device.type == "cpu" else lull.wait,
        base_model=config.model_name,
        # PEFT saves a copy of these beside a LoRA on the head; an equal copy changes nothing.
        base_weight={
            "lm_head": model.lm_head.weight,
            "model.embed_tokens": model.embedding,
        }.get,
    )
    info = _info(config, model, limits, execution, eos_token_ids)
    return EngineParts(
        info=info,
        intake=Intake(info, guides, max_queued=config.max_queued),
        scheduler=_scheduler(config, limits, execution, exchange),
        exchange=exchange,
        runner=execution.runner,
        lull=lull,
    )


def engine_device(device: Device) -> torch.device:
    if device is Device.AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device is Device.CUDA and not torch.cuda.is_available():
        raise ModelRefused("--device cuda was asked for, but torch sees no GPU.")
    return torch.device(device.value)


def served_dtype(dtype: DType, device: torch.device, model_config: ModelConfig) -> torch.dtype:
    """What weights and adapters are held in."""
    if dtype is not DType.AUTO:
        return {
            DType.FLOAT32: torch.float32,
            DType.FLOAT16: torch.float16,
            DType.BFLOAT16: torch.bfloat16,
        }[dtype]
    # Most CPUs multiply 16-bit floats slower than 32-bit ones.
    return torch.float32 if device.type == "cpu" else model_config.dtype


def _scheduler(
    config: EngineConfig, limits: StepLimits, execution: Execution, exchange: AdapterExchange
) -> Scheduler:
    blocks = SequenceBlocks(
        BlockAllocator(execution.plan.num_blocks),
        block_size=execution.kv_cache.block_size,
        prefix_cache=config.prefix_cache,
    )
    return Scheduler(
        blocks,
        exchange,
        max_num_sequences=limits.max_num_sequences,
        max_batch_tokens=limits.max_batch_tokens,
    )


def _guides(tokenizer_json: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> GuideFactory:
    try:
        return GuideFactory(tokenizer_json, vocab_size=vocab_size, eos_token_ids=eos_token_ids)
    except UnsupportedTokenizer as error:
        raise ModelRefused(error.message) from error


def _info(
    config: EngineConfig,
    model: Decoder,
    limits: StepLimits,
    execution: Execution,
    eos_token_ids: tuple[int, ...],
) -> EngineInfo:
    kv_cache = execution.kv_cache
    rank_columns = sum(
        site.in_features + target.out_features for site in model.sites for target in site.targets
    )
    return EngineInfo(
        architecture=model.config.architecture,
        device=str(kv_cache.device),
        dtype=str(kv_cache.dtype).removeprefix("torch."),
        num_parameters=model.num_parameters,
        vocab_size=model.config.vocab_size,
        hidden_size=model.config.hidden_size,
        eos_token_ids=eos_token_ids,
        max_model_len=execution.plan.max_model_len,
        block_size=kv_cache.block_size,
        num_blocks=execution.plan.num_blocks,
        max_num_sequences=limits.max_num_sequences,
        max_adapter_rank=config.max_adapter_rank,
        adapter_pool_bytes=execution.slabs.capacity_bytes,
        typical_adapter_bytes=TYPICAL_RANK * rank_columns * kv_cache.dtype.itemsize,
    )
