"""`lorax-serve`: command line and environment in, one checked Settings value out.

The only place that reads the environment. A flag goes before its variable, that before the default.
"""

import argparse
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from lorax_serve.server.child_process import child_environment
from lorax_serve.server.config import Environment, ServerConfig, Settings, Surroundings
from lorax_serve.server.engine_process import engine_environment
from lorax_serve.server.errors import StartError
from lorax_serve.server.option import ENV_PREFIX, Option
from lorax_serve.server.option_checks import check_options
from lorax_serve.server.options import GROUPS, OPTIONS
from lorax_serve.server.runtime_dir import choose_runtime_parent
from lorax_serve.server.version import version

EXIT_STOPPED: Final = 0
EXIT_USAGE: Final = 2
ADAPTERS: Final = "adapters"  # the subcommand; anything else serves

_DESCRIPTION: Final = (
    "Serve one base model and any number of LoRA adapters; every request names its own.\n"
    "Without --model-id a small demo model is served."
)
_EPILOG: Final = """\
A flag goes before its environment variable, and that before the default; an empty variable counts
as unset, and HOSTNAME is not read because shells and containers set it. Sizes take kB, MB, GB, KiB,
MiB and GiB. Switches take true or false in the environment.

Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong option, 70 the engine or a frontend
process was lost.

adapters check PATH reads an adapter's folder as the server would, without a GPU and without the
model's weights, and says whether it can be served and if not why; it takes the options on model
and adapters. Exit codes: 0 it can, 1 it cannot, 2 there is no such folder or model.

Examples:
  lorax-serve
  lorax-serve --model-id /models/Llama-3.1-8B-Instruct --adapter-dir /adapters --host 0.0.0.0
  lorax-serve --model-id Qwen/Qwen3-0.6B@main --kv-cache-memory 2GiB
  lorax-serve adapters check /adapters/support --model-id /models/Llama-3.1-8B-Instruct
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """The same text on every Python: flags first, their value once, line breaks kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = ", ".join(action.option_strings)
        return f"{flags} {action.metavar}" if action.metavar else flags

    def _split_lines(self, text: str, width: int) -> list[str]:
        paragraphs = text.splitlines()
        return [
            line for p in paragraphs for line in textwrap.wrap(p, width, break_on_hyphens=False)
        ]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"lorax-serve: {message}. See lorax-serve --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; the process's exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [ADAPTERS]:
        return _adapters(argv[1:])
    settings = parse(argv, os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the event loop takes over
    try:
        # Only now: --help and a wrong option answer without loading the server.
        from lorax_serve.server.launch import run

        return run(settings)
    except KeyboardInterrupt:
        return EXIT_STOPPED


def _adapters(argv: Sequence[str]) -> int:
    """`adapters check PATH [options]`; the options are the server's, as far as they matter."""
    match argv:
        case ["check", path, *options] if not path.startswith("-"):
            settings = parse(options, os.environ)
        case _:
            sys.stderr.write("lorax-serve: expected adapters check PATH [options].\n")
            return EXIT_USAGE
    from lorax_serve.server.adapter_check import check_adapter

    return check_adapter(path, settings)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Exits with a sentence on a wrong value, and with the text of --help or --version."""
    parser = _parser()
    given = vars(parser.parse_args(argv))
    server: dict[str, object] = {}
    engine: dict[str, object] = {}
    try:
        for option in OPTIONS:
            for value in _values(option, given, environ):
                (engine if option.is_engine else server)[option.name] = value
        config = msgspec.convert(server, ServerConfig)
        check_options(config)
        surroundings = _surroundings(environ)
    except (ValueError, StartError) as error:
        parser.error(str(error))
    return Settings(
        server=config,
        engine=engine,
        surroundings=surroundings,
        unread=_unread(environ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lorax-serve",
        usage="lorax-serve [options]\n       lorax-serve adapters check PATH [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    for group in GROUPS:
        section = parser.add_argument_group(group.title)
        for option in group.options:
            _add(section, option)
    other = parser.add_argument_group("Other")
    other.add_argument("--help", "-h", action="help", help="show this and exit")
    other.add_argument(
        "--version", action="version", version=version(), help="show the version and exit"
    )
    return parser


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    help_text = f"{option.help}\ndefault: {option.shown_default}; env: {', '.join(option.env)}"
    if option.is_switch:
        section.add_argument(
            *option.flags,
            dest=option.name,
            default=argparse.SUPPRESS,
            help=help_text,
            action=argparse.BooleanOptionalAction,
        )
    else:
        section.add_argument(
            *option.flags,
            dest=option.name,
            default=argparse.SUPPRESS,
            help=help_text,
            metavar=option.metavar,
            action="append" if option.repeats else "store",
        )


def _values(
    option: Option, given: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[object]:
    """The value that was set for `option`, if one was. Raises ValueError, with the sentence."""
    for source, text in _texts(option, given, environ):
        try:
            yield option.parse(text)
        except ValueError as error:
            raise ValueError(f"{source} {text!r}: {error}") from None
        return


def _texts(
    option: Option, given: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Where a value comes from, and its text; the first one counts."""
    if option.name in given:
        value = given[option.name]
        yield option.flags[0], ",".join(value) if isinstance(value, list) else str(value)
    for name in option.env:
        if environ.get(name) and not _is_service_link(name, environ[name]):
            yield name, environ[name]
    if isinstance(option.field.default, Path):  # may begin with ~
        yield option.flags[0], str(option.field.default)


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes tells the pods of a service called `lorax` LORAX_PORT=tcp://…"""
    kubernetes = (f"{ENV_PREFIX}SERVICE_", f"{ENV_PREFIX}PORT_")
    return name.startswith(kubernetes) or value.startswith("tcp://")


def _unread(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that look like ours and are not: most likely misspelt."""
    known = {name for option in OPTIONS for name in option.env}
    return tuple(
        sorted(
            name
            for name, value in environ.items()
            if name.startswith(ENV_PREFIX)
            and name not in known
            and not _is_service_link(name, value)
        )
    )


def _surroundings(environ: Mapping[str, str]) -> Surroundings:
    """Raises StartError when there is no place for the engine's socket."""
    is_terminal = sys.stderr.isatty()
    folders = [environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
    return Surroundings(
        is_terminal=is_terminal,
        wants_colors=bool(environ.get("FORCE_COLOR"))
        or (is_terminal and not environ.get("NO_COLOR")),
        runtime_parent=choose_runtime_parent(Path(folder) for folder in folders if folder),
        engine_environment=engine_environment(environ),
        frontend_environment=Environment(child_environment(environ)),
    )
