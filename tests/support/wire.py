"""The HTTP side as a whole over a fake engine: one Service, one running server."""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import processors

from fake_engine import ENGINE_INFO, FakeEngine, Step, Tokens
from lorax_serve.grammar.compiled import CompiledGrammar, compiled_grammar
from lorax_serve.grammar.control_tokens import load_control_tokens
from lorax_serve.grammar.errors import InvalidGrammar
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.ipc.types import FinishReason, Pooling
from lorax_serve.server.adapter_desk import open_desk
from lorax_serve.server.adapter_resolver import AdapterResolver
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.remote_adapters import RemoteAdapters
from lorax_serve.server.service import Limits, Service
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.isolated_templates import IsolatedTemplates
from lorax_serve.server.text.tokenizer import Tokenizer
from tiny_tokenizers import write_byte_level

MODEL_ID = "tiny/base-model"
ADAPTERS = ("alice", "team/ops", "ünï çode")


class FakeRegexCompiler:
    """Compiles to the pattern itself; refuses "(" and no options as a real one would."""

    async def regex(self, pattern: str) -> CompiledGrammar:
        if pattern.count("(") != pattern.count(")"):
            raise InvalidGrammar("The pattern has an unclosed group.")
        return compiled_grammar("outlines_index", pattern.encode())

    async def choice(self, options: Sequence[str]) -> CompiledGrammar:
        if not options:
            raise InvalidGrammar("A choice needs at least one option.")
        return compiled_grammar("outlines_index", "|".join(options).encode())


@dataclass
class Wire:
    """What a test holds: the client, the engine behind the server, and its tokenizer."""

    engine: FakeEngine
    tokenizer: Tokenizer
    service: Service
    logs: list[EventDict] = field(init=False)
    client: TestClient[web.Request, web.Application] = field(init=False)

    def spell(self, text: str) -> list[int]:
        """One token for each byte of the text, so that a test decides what a token holds."""
        return [self.token(bytes([byte])) for byte in text.encode()]

    def token(self, content: bytes) -> int:
        """The id of the token that adds exactly these bytes."""
        ids = range(ENGINE_INFO.vocab_size)
        return next(i for i in ids if self.tokenizer.token_bytes(i) == content)

    @property
    def eos(self) -> int:
        return self.token(b"<|im_end|>")

    def will_say(self, text: str, finish: FinishReason | None = FinishReason.EOS) -> None:
        """Script: one step per token, then the end token (EOS) or a finish on the last (LENGTH)."""
        ids = self.spell(text)
        steps: list[Step] = [Tokens([token_id]) for token_id in ids]
        if finish is FinishReason.EOS:
            steps.append(Tokens([self.eos], finish))
        elif finish is not None:
            steps[-1] = Tokens([ids[-1]], finish)
        self.engine.script = steps

    def will_each_say(self, *texts: str) -> None:
        """The first request says the first text, the second the second, and so on."""
        for number, text in enumerate(texts, len(self.engine.requests)):
            self.will_say(text)
            self.engine.scripts[number] = self.engine.script

    @property
    def url(self) -> str:
        return str(self.client.make_url("")).rstrip("/")


def write_files(folder: Path) -> Path:
    """A model's text files in model/, adapters that nobody loads in adapters/."""
    (folder / "model").mkdir()
    write_byte_level(folder / "model")
    for name in ADAPTERS:
        adapter = folder / "adapters" / name
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (adapter / "adapter_model.safetensors").touch()
    return folder


def files_with_bos(files: Path, folder: Path) -> Path:
    """The same files with a tokenizer that puts a token before each text."""
    shutil.copytree(files, folder, dirs_exist_ok=True)
    path = folder / "model" / "tokenizer.json"
    tokenizer = RustTokenizer.from_file(str(path))
    bos = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    tokenizer.save(str(path))
    return folder


def make_service(
    files: Path,
    engine: FakeEngine,
    limits: Limits | None = None,
    remote: RemoteAdapters | None = None,
    admin_key: AdminKey | None = None,
    embedding_pooling: Pooling = Pooling.LAST,
) -> Service:
    local = LocalAdapters(files / "adapters", allow_absolute=False)
    return Service(
        model_id=MODEL_ID,
        model_revision="abc123",
        engine=engine,
        tokenizer=Tokenizer.from_folder(files / "model"),
        chat_template=ChatTemplate.from_folder(files / "model"),
        resolver=(resolver := AdapterResolver(local, remote, default_source="local")),
        desk=open_desk(
            engine,
            resolver,
            local,
            base_names=frozenset((MODEL_ID,)),
            registry=(registry := CollectorRegistry()),
        ),
        metrics=registry,
        admin_key=admin_key,
        embedding_pooling=embedding_pooling,
        regex_compiler=cast(RegexCompiler, FakeRegexCompiler()),
        control_tokens=load_control_tokens(
            files / "model" / "tokenizer.json", ENGINE_INFO.eos_token_ids
        ),
        limits=limits or Limits(),
        version="0.1.0-test",
    )


@asynccontextmanager
async def running(
    files: Path,
    limits: Limits | None = None,
    *,
    embedding_pooling: Pooling = Pooling.LAST,
    template_kwargs: Sequence[str] = (),
    logs_requests: bool = False,
    adapter_templates: IsolatedTemplates | None = None,
) -> AsyncIterator[Wire]:
    """The server on a real socket, over the files that `write_files` wrote."""
    engine = FakeEngine()
    service = make_service(files, engine, limits, embedding_pooling=embedding_pooling)
    service = replace(
        service,
        chat_template_kwargs=frozenset(template_kwargs),
        logs_requests=logs_requests,
        adapter_templates=adapter_templates,
    )
    wire = Wire(engine, service.tokenizer, service)
    # TestServer runs an app as it is meant to be run, with handler_cancellation.
    with capture_logs() as wire.logs:
        async with TestClient(TestServer(build_app(service))) as client:
            wire.client = client
            yield wire
    service.tokenizer.close()
