"""A frontend's own parts, built from the options before its engine is there, and what the routes
get of them once it is.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from lorax_serve.grammar.control_tokens import load_control_tokens
from lorax_serve.grammar.errors import UnsupportedTokenizer
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.server.adapter_desk import open_desk
from lorax_serve.server.adapter_setup import build_resolver
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.errors import StartError
from lorax_serve.server.model_source import ModelSource
from lorax_serve.server.option_checks import names
from lorax_serve.server.service import Limits, Service
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.isolated_templates import IsolatedTemplates
from lorax_serve.server.text.tokenizer import Tokenizer
from lorax_serve.server.text.tokenizer_config import TokenizerConfig
from lorax_serve.server.version import version


class ServiceSetup:
    """Raises StartError where the options or the model's files will not do."""

    def __init__(
        self,
        config: ServerConfig,
        source: ModelSource,
        tokenizer: Tokenizer,
        *,
        logs_requests: bool = False,
    ) -> None:
        self._config = config
        self._logs_requests = logs_requests
        self._source = source
        self._tokenizer = tokenizer
        self._chat_template = ChatTemplate.from_folder(source.folder)
        self._adapter_templates = (
            IsolatedTemplates(TokenizerConfig.from_folder(source.folder).template_variables())
            if config.adapter_chat_templates
            else None
        )
        self.adapters = local_adapters(config, source)
        self.resolver = build_resolver(
            config, self.adapters, has_folder=source.adapter_dir is not None
        )

    def service(self, client: EngineClient) -> Service:
        """Raises StartError."""
        config, source = self._config, self._source
        base_names = frozenset((source.model_id, *source.aliases))
        registry = CollectorRegistry()
        return Service(
            model_id=source.model_id,
            model_aliases=source.aliases,
            model_revision=source.revision,
            engine=client,
            tokenizer=self._tokenizer,
            chat_template=self._chat_template,
            adapter_templates=self._adapter_templates,
            chat_template_kwargs=frozenset(names(config.chat_template_kwargs)),
            tool_call_parser=config.tool_call_parser,
            resolver=self.resolver,
            desk=open_desk(
                client,
                self.resolver,
                self.adapters,
                base_names=base_names,
                registry=registry,
                max_labels=config.metrics_max_adapters,
            ),
            metrics=registry,
            admin_key=None if config.admin_key is None else AdminKey(config.admin_key),
            embedding_pooling=config.embedding_pooling,
            bearer_is_adapter_token=config.bearer_is_adapter_token,
            prefix_cache_scope=config.prefix_cache_scope,
            regex_compiler=self._regex_compiler(client.info.eos_token_ids),
            control_tokens=load_control_tokens(
                source.folder / "tokenizer.json", client.info.eos_token_ids
            ),
            limits=Limits(
                max_body_bytes=config.max_body_bytes,
                max_concurrent_requests=config.max_concurrent_requests,
                max_choices=config.max_choices,
                max_stop_sequences=config.max_stop_sequences,
            ),
            logs_requests=self._logs_requests,
            version=version(),
        )

    def _regex_compiler(self, eos_token_ids: Sequence[int]) -> RegexCompiler:
        try:
            return RegexCompiler(self._source.folder / "tokenizer.json", eos_token_ids)
        except UnsupportedTokenizer as error:
            raise StartError(f"The model's tokenizer cannot be served: {error}") from error


def local_adapters(config: ServerConfig, source: ModelSource) -> LocalAdapters:
    return LocalAdapters(source.adapter_dir, allow_absolute=config.allow_absolute_adapters)
