"""The command line and the environment, and what wrong values are answered."""

import subprocess
import sys
from pathlib import Path

import pytest

from lorax_serve.ipc.config import AttentionBackendName, Device, DType, EngineConfig
from lorax_serve.ipc.types import Pooling
from lorax_serve.server import cli, options
from lorax_serve.server.cli import parse
from lorax_serve.server.config import AdapterSource, LogFormat, LogLevel, ServerConfig
from lorax_serve.server.option import Option
from lorax_serve.server.options import OPTIONS
from lorax_serve.server.secret import Secret
from lorax_serve.server.tenants import PrefixCacheScope
from lorax_serve.server.text.tool_calls.formats import ToolCallParser

GOLDEN_HELP = Path(__file__).with_name("help.txt")

# For every option a value other than the default, as a text and as parsed.
VALUES: dict[str, tuple[str, object]] = {
    "model_id": ("org/model", "org/model"),
    "revision": ("v1", "v1"),
    "cache_dir": ("/cache", Path("/cache")),
    "device": ("cuda", "cuda"),
    "dtype": ("bfloat16", "bfloat16"),
    "max_model_len": ("4096", 4096),
    "adapter_dir": ("/adapters", Path("/adapters")),
    "allow_absolute_adapters": ("true", True),
    "adapter_source": ("hub", AdapterSource.HUB),
    "adapter_allow": ("org/*,me/one", "org/*,me/one"),
    "adapter_chat_templates": ("true", True),
    "adapter_cache_dir": ("/kept", Path("/kept")),
    "adapter_cache_bytes": ("1GiB", 2**30),
    "max_adapter_bytes": ("1MB", 1_000_000),
    "adapter_download_timeout": ("30", 30.0),
    "max_adapter_downloads": ("2", 2),
    "private_adapter_grace": ("300", 300.0),
    "hub_endpoint": ("http://hub.example:8000/mirror", "http://hub.example:8000/mirror"),
    "hub_offline": ("true", True),
    "hub_token": ("hf_secret", Secret("hf_secret")),
    "bearer_is_adapter_token": ("true", True),
    "s3_allow": ("models,team/sql", "models,team/sql"),
    "s3_endpoint_url": ("http://store.example:9000", "http://store.example:9000"),
    "r2_account_id": ("abc123", "abc123"),
    "s3_region": ("eu-west-3", "eu-west-3"),
    "s3_default_bucket": ("models", "models"),
    "s3_default_folder": ("team/sql", "team/sql"),
    "s3_access_key_id": ("AKID", Secret("AKID")),
    "s3_secret_access_key": ("secret", Secret("secret")),
    "s3_session_token": ("session", Secret("session")),
    "s3_aws_chain": ("true", True),
    "predibase_gateway": ("https://gateway.example", "https://gateway.example"),
    "predibase_allow": ("closed/adapters", "closed/adapters"),
    "preload": ("support,team/ops", "support,team/ops"),
    "pin": ("support", "support"),
    "preload_source": ("hub", "hub"),
    "adapter_pool_bytes": ("1.5GiB", 3 * 2**29),
    "host_adapter_bytes": ("64GiB", 2**36),
    "max_slots_per_tenant": ("4", 4),
    "max_adapter_rank": ("64", 64),
    "max_loading": ("4", 4),
    "kv_cache_bytes": ("512MB", 512_000_000),
    "block_size": ("32", 32),
    "prefix_cache": ("false", False),
    "prefix_cache_scope": ("global", PrefixCacheScope.GLOBAL),
    "max_num_sequences": ("8", 8),
    "max_batch_tokens": ("2048", 2048),
    "gpu_memory_share": ("0.5", 0.5),
    "attention_backend": ("triton", "triton"),
    "cuda_graphs": ("false", False),
    "num_threads": ("2", 2),
    "embedding_pooling": ("mean", Pooling.MEAN),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000),
    "frontends": ("3", 3),
    "tool_call_parser": ("hermes", ToolCallParser.HERMES),
    "chat_template_kwargs": ("enable_thinking,date_string", "enable_thinking,date_string"),
    "admin_key": ("a key", Secret("a key")),
    "shutdown_timeout": ("2.5", 2.5),
    "max_concurrent_requests": ("10", 10),
    "max_waiting_requests": ("9", 9),
    "max_body_bytes": ("64kB", 64_000),
    "max_choices": ("3", 3),
    "max_stop_sequences": ("2", 2),
    "metrics_max_adapters": ("8", 8),
    "log_level": ("warning", LogLevel.WARNING),
    "log_format": ("json", LogFormat.JSON),
    "debug": ("true", True),
}
FIELDS_SET_BY_THE_START = {
    "endpoint",
    "model_path",
    "model_name",
    "max_queued",
    "log_level",
    "log_json",
}


def value(option: Option, argv: list[str], environ: dict[str, str]) -> object:
    settings = parse(argv, environ)
    if option.is_engine:
        config = settings.engine_config(endpoint="ipc:///x", model_path=Path("/model"))
        parsed = getattr(config, option.name)
        return parsed.value if isinstance(parsed, Device | DType | AttentionBackendName) else parsed
    return getattr(settings.server, option.name)


def argument(option: Option, flag: str, text: str) -> list[str]:
    if not option.is_switch:
        return [flag, text]
    return [flag if text == "true" else flag.replace("--", "--no-", 1)]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flags[0])
def test_every_option_is_read_from_its_flags_and_variables(option: Option) -> None:
    text, parsed = VALUES[option.name]
    assert value(option, [], {}) != parsed
    for flag in option.flags:
        assert value(option, argument(option, flag, text), {}) == parsed
    for name in option.env:
        assert value(option, [], {name: text}) == parsed


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flags[0])
def test_a_flag_goes_before_its_variable_and_an_empty_variable_is_unset(option: Option) -> None:
    text, parsed = VALUES[option.name]
    wrong = dict.fromkeys(option.env, "not a value\x00")
    assert value(option, argument(option, option.flags[0], text), wrong) == parsed
    empty = dict.fromkeys(option.env, "")
    assert value(option, [], empty) == value(option, [], {})


def test_names_of_adapters_add_up() -> None:
    flags = ["--preload", "a,b", "--preloaded-adapter-ids", "c"]
    assert parse(flags, {}).server.preload == "a,b,c"


def test_our_variable_goes_before_that_of_lorax() -> None:
    assert parse([], {"LORAX_PORT": "1", "PORT": "2"}).server.port == 1


def test_a_token_is_shown_nowhere() -> None:
    environ = {"HF_TOKEN": "hf_other", "LORAX_ADMIN_KEY": "hf_admin"}
    settings = parse(["--hub-token", "hf_secret"], environ)
    assert settings.server.admin_key == Secret("hf_admin")
    assert settings.server.hub_token == Secret("hf_secret")
    assert "hf_" not in repr(settings)
    assert "hf_" not in str(settings.surroundings.engine_environment)


def test_a_key_for_buckets_is_shown_nowhere() -> None:
    environ = {
        "AWS_ACCESS_KEY_ID": "canary-id",
        "AWS_SECRET_ACCESS_KEY": "canary-secret",
        "AWS_SESSION_TOKEN": "canary-token",
        "PREDIBASE_API_TOKEN": "canary-predibase",
    }
    settings = parse([], environ)
    assert settings.server.s3_access_key_id == Secret("canary-id")
    assert "canary" not in repr(settings)
    assert "canary" not in str(settings.surroundings.engine_environment)


@pytest.mark.parametrize(
    "url",
    ["hub.example", "ftp://hub.example", "https://user:key@hub", "https://hub?x=1", "http://"],
)
def test_the_hub_is_a_plain_address(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--hub-endpoint", url], {})
    assert "--hub-endpoint" in capsys.readouterr().err


def test_every_field_of_both_configurations_has_an_option() -> None:
    of_engine = {option.name for option in OPTIONS if option.is_engine}
    of_server = {option.name for option in OPTIONS if not option.is_engine}
    assert of_engine == set(EngineConfig.__struct_fields__) - FIELDS_SET_BY_THE_START
    assert of_server == set(ServerConfig.__struct_fields__)


def test_the_defaults_are_those_of_the_configurations() -> None:
    settings = parse([], {"HOME": "/root"})
    config = settings.engine_config(endpoint="ipc:///x", model_path=Path("/model"))
    assert config == EngineConfig(
        endpoint="ipc:///x",
        model_path="/model",
        max_queued=settings.server.max_concurrent_requests,
        log_level="info",
        log_json=settings.logs_json,
    )
    assert settings.server.cache_dir.is_absolute()


def test_the_engine_queues_as_many_requests_as_the_server_accepts() -> None:
    settings = parse(["--max-concurrent-requests=7"], {})
    assert settings.engine_config(endpoint="", model_path=Path()).max_queued == 7


def test_debug_is_the_log_level_of_both_processes() -> None:
    settings = parse(["--debug"], {})
    assert settings.log_level is LogLevel.DEBUG
    assert settings.engine_config(endpoint="", model_path=Path()).log_level == "debug"


@pytest.mark.parametrize(
    ("argv", "environ", "sentence"),
    [
        (["--port", "99999"], {}, "--port '99999': expected a whole number from 0 to 65535"),
        (["--port=-1"], {}, "--port '-1': expected a whole number from 0 to 65535"),
        ([], {"LORAX_PORT": "http"}, "LORAX_PORT 'http': expected a whole number"),
        ([], {"PORT": "80a"}, "PORT '80a': expected a whole number"),
        (["--device", "tpu"], {}, "--device 'tpu': expected one of auto, cpu, cuda"),
        (["--kv-cache-memory", "2 parsecs"], {}, "expected a size such as 512MB or 1GiB"),
        (["--kv-cache-memory", "0"], {}, "expected a whole number from 1 up"),
        (["--shutdown-timeout", "nan"], {}, "expected a number from 0 to 3600"),
        ([], {"LORAX_PREFIX_CACHE": "maybe"}, "expected true or false"),
        (["--max-model-len", "1"], {}, "expected a whole number from 16 up"),
        (["--prot", "80"], {}, "unrecognized arguments: --prot 80"),
        (["--max-num", "8"], {}, "unrecognized arguments: --max-num 8"),  # no guessing
        (["--port"], {}, "argument --port: expected one argument"),
    ],
)
def test_a_wrong_value_is_one_sentence_and_exit_2(
    argv: list[str], environ: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, environ)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


PBASE = ("--adapter-source", "pbase")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--preload-source", "pbase", "--preload", "team/1"], "--preload team/1: a Predibase"),
        (["--preload-source=PBase", "--pin", "hf://org/one"], "--pin hf://org/one: a Predibase"),
        ([*PBASE, "--preload", "hf://org/one, team/1"], "--preload team/1: a Predibase adapter"),
    ],
)
def test_an_adapter_that_needs_its_callers_token_is_not_there_at_start(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(argv, {"PREDIBASE_API_TOKEN": "pb_of_the_operator"})
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [*PBASE, "--preload", "hf://org/one,s3://bucket/two,/adapters/three"],
        [*PBASE, "--preload", "team/1", "--preload-source", "hub"],
        ["--preload-source", "pbase"],
    ],
)
def test_others_are_there_at_start_where_predibase_is_served(argv: list[str]) -> None:
    parse(argv, {})


def test_no_home_folder_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(SystemExit):
        parse([], {})
    assert "--cache-dir '~/.cache/lorax-serve': there is no home folder" in capsys.readouterr().err


def test_variables_that_look_like_ours_and_are_not_are_told() -> None:
    environ = {"LORAX_PROT": "1", "LORAX_PORT": "2", "PATH": "/bin"}
    assert parse([], environ).unread == ("LORAX_PROT",)


def test_what_kubernetes_tells_about_a_service_named_lorax_is_not_for_us() -> None:
    links = {
        "LORAX_PORT": "tcp://10.0.0.1:80",
        "LORAX_SERVICE_HOST": "10.0.0.1",
        "LORAX_SERVICE_PORT": "80",
        "LORAX_PORT_80_TCP": "tcp://10.0.0.1:80",
        "LORAX_PORT_80_TCP_PROTO": "tcp",
    }
    settings = parse([], links)
    assert settings.server.port == ServerConfig().port
    assert settings.unread == ()


def test_the_hostname_of_shells_and_containers_is_not_the_address_to_listen_on() -> None:
    assert parse([], {"HOSTNAME": "4f2a"}).server.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("environ", "colors"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True)],
)
def test_colors_off_a_terminal(environ: dict[str, str], colors: bool) -> None:
    assert parse([], environ).surroundings.wants_colors is colors


def test_json_lines_are_for_what_is_no_terminal() -> None:
    assert parse([], {}).logs_json
    assert not parse(["--log-format=text"], {}).logs_json


def test_help_reads_as_agreed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by `COLUMNS=100 lorax-serve --help`; look at it when you change it."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == GOLDEN_HELP.read_text()


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "version", lambda: "1.2.3")
    with pytest.raises(SystemExit) as caught:
        parse(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == "1.2.3\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from lorax_serve.server.cli import parse\n"
        "try: parse(['--help'], {})\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'zmq', 'tokenizers', 'huggingface_hub', 'structlog', 'tqdm'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_no_flag_or_variable_is_used_twice() -> None:
    flags = [flag for option in options.OPTIONS for flag in option.flags]
    variables = [name for option in options.OPTIONS for name in option.env]
    assert len(flags) == len(set(flags))
    assert len(variables) == len(set(variables))
