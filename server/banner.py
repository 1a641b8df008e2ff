"""What is served, where, and how much fits: the last thing said at start."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import EngineInfo
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.model_source import ModelSource
from lorax_serve.server.sources.hub_id import DEFAULT_ENDPOINT


@dataclass(frozen=True)
class Banner:
    """The same facts as text lines and as fields of a log line."""

    version: str
    source: ModelSource
    info: EngineInfo
    config: ServerConfig
    num_adapters: int  # in the adapter directory
    adapter_cache_dir: Path | None  # where fetched ones are kept
    urls: Sequence[str]

    @property
    def num_kv_tokens(self) -> int:
        return self.info.num_blocks * self.info.block_size

    @property
    def num_fitting_rank_16(self) -> int:
        """How many adapters of rank 16 on every linear layer the pool holds at once: of those with
        a lower rank, or on fewer layers, more fit.
        """
        return self.info.adapter_pool_bytes // self.info.typical_adapter_bytes

    def text(self) -> str:
        lines = {
            f"lorax-serve {self.version}": "",
            "model": self._model(),
            "engine": f"{self.info.device}, {self.info.dtype}, "
            f"up to {self.info.max_num_sequences} requests at a time",
            "context": f"{self.info.max_model_len:,} tokens a request; "
            f"the KV cache holds {self.num_kv_tokens:,}",
            "adapters": self._adapters(),
            "sources": self._sources(),
            "kept in": str(self.adapter_cache_dir or "-"),
            "limits": f"{self.config.max_concurrent_requests} open requests, "
            f"{show_size(self.config.max_body_bytes)} a body",
            "OpenAI API": ", ".join(f"{url}/v1" for url in self.urls),
            "LoRAX API": ", ".join(f"{url}/generate" for url in self.urls),
        }
        return "".join(f"  {name:<11} {value}".rstrip() + "\n" for name, value in lines.items())

    def fields(self) -> dict[str, object]:
        return {
            "version": self.version,
            "model": self.source.model_id,
            "revision": self.source.revision,
            "device": self.info.device,
            "dtype": self.info.dtype,
            "max_model_len": self.info.max_model_len,
            "num_kv_tokens": self.num_kv_tokens,
            "num_fitting_rank_16": self.num_fitting_rank_16,
            "num_adapters": self.num_adapters,
            "adapter_cache_dir": None
            if self.adapter_cache_dir is None
            else str(self.adapter_cache_dir),
            "num_frontends": self.config.frontends,
            "adapter_hub": self.config.hub_endpoint or DEFAULT_ENDPOINT,
            "adapter_allow": self.config.adapter_allow,
            "s3_allow": self.config.s3_allow,
            "serves_predibase": self.config.serves_predibase,
            "urls": list(self.urls),
        }

    def _model(self) -> str:
        revision = f"@{self.source.revision}" if self.source.revision else ""
        folder = f", {self.source.folder}" if self.source.aliases else ""
        size = f"{self.info.num_parameters / 1e9:.3g}B parameters"
        return f"{self.source.model_id}{revision} ({self.info.architecture}, {size}){folder}"

    def _sources(self) -> str:
        allowed = self.config.adapter_allow or "any repository"
        sources = [
            "this machine's folders",
            f"{self.config.hub_endpoint or DEFAULT_ENDPOINT}, {allowed}",
        ]
        if self.config.s3_allow is not None:
            sources.append(f"s3, {self.config.s3_allow}")
        if self.config.serves_predibase:
            sources.append("Predibase")
        return "; ".join(sources)

    def _adapters(self) -> str:
        fit = (
            f"{self.num_fitting_rank_16} of rank 16 on every layer fit in "
            f"{show_size(self.info.adapter_pool_bytes)}, ranks up to {self.info.max_adapter_rank}"
        )
        if self.source.adapter_dir is None:
            return f"no --adapter-dir; {fit}"
        return f"{self.num_adapters} in {self.source.adapter_dir}; {fit}"
