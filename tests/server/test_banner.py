import dataclasses
from pathlib import Path

import msgspec

import stub_engine
from lorax_serve.server.banner import Banner
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.model_source import ModelSource


def banner(adapter_dir: Path | None, revision: str | None = None) -> Banner:
    return Banner(
        version="1.2.3",
        source=ModelSource("org/model", revision, Path("/model"), adapter_dir),
        info=msgspec.structs.replace(stub_engine.INFO, num_parameters=134_515_008),
        config=ServerConfig(),
        num_adapters=3,
        adapter_cache_dir=Path("/cache/adapters/0"),
        urls=("http://127.0.0.1:8080", "http://[::1]:8080"),
    )


def test_text() -> None:
    assert banner(Path("/adapters"), "abc123").text() == (
        "  lorax-serve 1.2.3\n"
        "  model       org/model@abc123 (StubForCausalLM, 0.135B parameters)\n"
        "  engine      cpu, float32, up to 8 requests at a time\n"
        "  context     512 tokens a request; the KV cache holds 1,600\n"
        "  adapters    3 in /adapters; 16 of rank 16 on every layer fit in 1 MiB, ranks up to 64\n"
        "  sources     this machine's folders; https://huggingface.co, any repository\n"
        "  kept in     /cache/adapters/0\n"
        "  limits      256 open requests, 8 MiB a body\n"
        "  OpenAI API  http://127.0.0.1:8080/v1, http://[::1]:8080/v1\n"
        "  LoRAX API   http://127.0.0.1:8080/generate, http://[::1]:8080/generate\n"
    )


def test_text_of_a_local_folder_shows_the_operator_where_it_is() -> None:
    folder = Path("/models/llama")
    source = ModelSource("llama", None, folder, None, frozenset((str(folder),)))
    text = dataclasses.replace(banner(None), source=source).text()
    assert "  model       llama (StubForCausalLM, 0.135B parameters), /models/llama\n" in text


def test_text_without_an_adapter_directory() -> None:
    assert "no --adapter-dir; 16 of rank 16" in banner(None).text()


def test_text_with_buckets() -> None:
    config = ServerConfig(s3_allow="models,team/sql", s3_default_bucket="closed")
    text = dataclasses.replace(banner(None), config=config).text()
    assert "huggingface.co, any repository; s3, models,team/sql; Predibase\n" in text


def test_fields() -> None:
    assert banner(None).fields() == {
        "version": "1.2.3",
        "model": "org/model",
        "revision": None,
        "device": "cpu",
        "dtype": "float32",
        "max_model_len": 512,
        "num_kv_tokens": 1600,
        "num_fitting_rank_16": 16,
        "num_adapters": 3,
        "adapter_cache_dir": "/cache/adapters/0",
        "num_frontends": 1,
        "adapter_hub": "https://huggingface.co",
        "adapter_allow": None,
        "s3_allow": None,
        "serves_predibase": False,
        "urls": ["http://127.0.0.1:8080", "http://[::1]:8080"],
    }
