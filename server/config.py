"""What the operator asked for, complete and checked. Made once, by cli.py.

The engine's part stays a mapping until the model is on disk and the socket has its folder: only
then is there an EngineConfig.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.types import Pooling
from lorax_serve.server.secret import Secret
from lorax_serve.server.tenants import PrefixCacheScope
from lorax_serve.server.text.tool_calls.formats import ToolCallParser


class LogFormat(enum.Enum):
    AUTO = "auto"  # text on a terminal, JSON lines elsewhere
    TEXT = "text"
    JSON = "json"


class LogLevel(enum.Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AdapterSource(enum.Enum):
    """Where adapters are looked up that a request names without a source."""

    LOCAL = "local"
    HUB = "hub"
    S3 = "s3"
    PBASE = "pbase"


HttpAddress = Annotated[str, Meta(pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$")]


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model_id: str | None = None  # None: the demo model
    revision: str | None = None
    adapter_dir: Path | None = None
    allow_absolute_adapters: bool = False
    adapter_source: AdapterSource | None = None
    adapter_allow: str | None = None  # globs over hub repositories, with commas between them
    adapter_chat_templates: bool = False  # those that come with adapters count
    adapter_cache_dir: Path | None = None
    adapter_cache_bytes: Annotated[int, Meta(ge=2**20, le=2**50)] = 32 * 2**30
    max_adapter_bytes: Annotated[int, Meta(ge=1024, le=2**40)] = 2 * 2**30
    max_adapter_downloads: Annotated[int, Meta(ge=1, le=256)] = 4
    adapter_download_timeout: Annotated[float, Meta(gt=0, le=86400)] = 120.0
    private_adapter_grace: Annotated[float, Meta(ge=0, le=86400)] = 0.0  # seconds
    hub_endpoint: HttpAddress | None = None
    hub_offline: bool = False
    hub_token: Secret | None = None
    bearer_is_adapter_token: bool = False
    s3_allow: str | None = None  # buckets, or folders of them, with commas between
    s3_endpoint_url: HttpAddress | None = None
    r2_account_id: str | None = None
    s3_region: str | None = None
    s3_default_bucket: str | None = None
    s3_default_folder: str | None = None
    s3_access_key_id: Secret | None = None
    s3_secret_access_key: Secret | None = None
    s3_session_token: Secret | None = None
    s3_aws_chain: bool = False
    predibase_gateway: HttpAddress | None = None
    predibase_allow: str | None = None  # like s3_allow
    admin_key: Secret | None = None
    preload: str | None = None  # names of adapters, with commas between them
    pin: str | None = None
    preload_source: str | None = None
    embedding_pooling: Pooling = Pooling.LAST
    prefix_cache_scope: PrefixCacheScope = PrefixCacheScope.TENANT
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080  # 0: any that is free
    frontends: Annotated[int, Meta(ge=1, le=32)] = 1  # processes that share the port
    cache_dir: Path = Path("~/.cache/lorax-serve")
    shutdown_timeout: Annotated[float, Meta(ge=0, le=3600)] = 30.0  # seconds
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 8 * 2**20
    max_concurrent_requests: Annotated[int, Meta(ge=1, le=100_000)] = 256
    max_waiting_requests: Annotated[int, Meta(ge=1, le=100_000)] = 256
    tool_call_parser: ToolCallParser = ToolCallParser.AUTO
    chat_template_kwargs: str = "enable_thinking"  # names, with commas between them
    max_choices: Annotated[int, Meta(ge=1, le=4096)] = 128
    max_stop_sequences: Annotated[int, Meta(ge=0, le=1024)] = 16
    metrics_max_adapters: Annotated[int, Meta(ge=1, le=4096)] = 64
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.AUTO
    debug: bool = False

    @property
    def serves_predibase(self) -> bool:
        """Whether the operator has said where its adapters lie."""
        return self.predibase_allow is not None or self.s3_default_bucket is not None


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables for a process of ours, its credentials among them: it prints without any."""

    variables: Mapping[str, str] = field(repr=False)


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the process finds around itself, as opposed to what it is told."""

    is_terminal: bool  # standard error is one
    wants_colors: bool
    runtime_parent: Path  # where the engine's socket gets its folder
    engine_environment: Mapping[str, str]
    frontend_environment: Environment


class Settings(Struct, frozen=True, kw_only=True):
    server: ServerConfig
    engine: Mapping[str, object]  # EngineConfig's fields, as far as the operator may set them
    surroundings: Surroundings
    unread: tuple[str, ...] = ()  # environment variables that look like ours and are not

    @property
    def logs_json(self) -> bool:
        if self.server.log_format is LogFormat.AUTO:
            return not self.surroundings.is_terminal
        return self.server.log_format is LogFormat.JSON

    @property
    def log_level(self) -> LogLevel:
        return LogLevel.DEBUG if self.server.debug else self.server.log_level

    def engine_config(
        self, *, endpoint: str, model_path: Path, model_name: str = ""
    ) -> EngineConfig:
        """For an engine that binds `endpoint` and serves the model in `model_path`."""
        return msgspec.convert(
            {
                **self.engine,
                "endpoint": endpoint,
                "model_path": str(model_path),
                "model_name": model_name,
                "max_queued": self.server.max_concurrent_requests,
                "log_level": self.log_level.value,
                "log_json": self.logs_json,
            },
            EngineConfig,
        )
