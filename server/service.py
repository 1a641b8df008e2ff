"""What every route needs, gathered once at start: the engine, the text side, the limits."""

import secrets
import time
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from lorax_serve.grammar.control_tokens import ControlToken
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.ipc.types import Pooling
from lorax_serve.server.adapter_desk import AdapterDesk
from lorax_serve.server.adapter_resolver import AdapterResolver
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.engine import Engine
from lorax_serve.server.frontends.peers import Peers
from lorax_serve.server.tenants import PrefixCacheScope
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.isolated_templates import IsolatedTemplates
from lorax_serve.server.text.tokenizer import Tokenizer
from lorax_serve.server.text.tool_calls.formats import ToolCallParser


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what one client may ask for. Sizes in bytes, times in seconds."""

    max_body_bytes: int = 8 * 2**20
    max_concurrent_requests: int = 256  # of this process
    all_concurrent_requests: int | None = None  # of all frontends; None: there is this one
    max_choices: int = 128  # of one request: prompts times the answers to each
    max_embedding_inputs: int = 2048  # of one request, as many as OpenAI takes
    max_embedding_tokens: int = 300_000  # of all inputs of one request, or the model's length
    max_stop_sequences: int = 16
    max_stop_sequence_bytes: int = 256
    max_stop_token_ids: int = 64
    # `truncate` rescues a prompt of up to this many tokens (or the model's length, if more).
    max_untruncated_tokens: int = 131_072
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    keep_alive_interval: float = 15.0


@dataclass(frozen=True, kw_only=True)
class Service:
    model_id: str
    model_aliases: frozenset[str] = frozenset()  # what else names the base model in a request
    model_revision: str | None
    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    adapter_templates: IsolatedTemplates | None = None  # None: adapters' own do not count
    chat_template_kwargs: frozenset[str] = frozenset()  # the variables that a request may set
    tool_call_parser: ToolCallParser = ToolCallParser.AUTO
    resolver: AdapterResolver
    desk: AdapterDesk
    metrics: CollectorRegistry  # of this process
    peers: Peers | None = None  # None: this is the only frontend
    admin_key: AdminKey | None = None  # None: there are no operator's routes
    embedding_pooling: Pooling = Pooling.LAST
    bearer_is_adapter_token: bool = False  # an Authorization header is for the adapter's source
    prefix_cache_scope: PrefixCacheScope = PrefixCacheScope.TENANT
    regex_compiler: RegexCompiler
    control_tokens: tuple[ControlToken, ...] = ()  # of the vocabulary
    limits: Limits
    logs_requests: bool = False  # a line for each
    version: str
    tenant_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    started_at: int = field(default_factory=lambda: int(time.time()))  # Unix seconds

    def is_base(self, name: str) -> bool:
        return name == self.model_id or name in self.model_aliases
