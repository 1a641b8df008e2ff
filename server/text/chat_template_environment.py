"""Templates compiled in the environment that Hugging Face chat templates are written for.

The sandbox keeps a template from reaching Python. Loops and macros end with their render's `Budget`
of processor time; what one expression can burn in time and memory (`'x' * 10 ** 9`) has no bound,
so the operator must trust who wrote a template.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorax_serve.server.errors import StartError

BUDGET: Final = "render budget"  # among a render's variables; no name that a template could write


class RaisedByTemplate(jinja2.TemplateError):
    """The template called `raise_exception`; the message is its own."""


class OutOfTime(jinja2.TemplateError):
    """The template's loops and macros used up the render's budget."""


class Budget:
    """How long one render may go on, in seconds of its own thread's processor time."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def check(self) -> None:
        """Raises OutOfTime."""
        if self._clock() > self._end:
            raise OutOfTime


@dataclass(frozen=True, slots=True)
class CompiledTemplate:
    source: str
    program: jinja2.Template
    words: frozenset[str]  # its names, attributes and string constants, comments left out


def compile_template(
    environment: ImmutableSandboxedEnvironment, name: str, source: str
) -> CompiledTemplate:
    """Raises StartError when `source` does not parse."""
    try:
        tree = environment.parse(source)
        words = frozenset(_words(tree))
        for body in list(_repeated(tree)):
            body.insert(0, BudgetChecks.node(body[0].lineno if body else 1))
        return CompiledTemplate(source, environment.from_string(tree), words)
    except Exception as error:  # jinja2's own, or Python's for a `break` outside a loop
        raise StartError(f"The chat template {name!r} does not parse: {error}.") from error


def _repeated(tree: nodes.Template) -> Iterator[list[nodes.Node]]:
    """What may run more than once for each time that its surroundings do."""
    for loop in tree.find_all(nodes.For):
        yield loop.body
    for macro in tree.find_all(nodes.Macro):
        yield macro.body
    for call in tree.find_all(nodes.CallBlock):
        yield call.body


def _words(tree: nodes.Template) -> Iterator[str]:
    for name in tree.find_all(nodes.Name):
        yield name.name
    for attribute in tree.find_all(nodes.Getattr):
        yield attribute.attr
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str):
            yield constant.value


class GenerationBlocks(Extension):
    """`{% generation %}` marks what the assistant says, for training; here it is only shown."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # variables set inside stay inside


class BudgetChecks(Extension):
    """What compiled loops and macros call, to end with their render's budget."""

    @classmethod
    def node(cls, lineno: int) -> nodes.Node:
        check = nodes.ExtensionAttribute(cls.identifier, "check")
        call = nodes.Call(check, [nodes.ContextReference()], [], None, None)
        return nodes.ExprStmt(call).set_lineno(lineno)

    def check(self, context: Context) -> None:
        context.parent[BUDGET].check()


def template_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlocks, BudgetChecks, loopcontrols],
    )
    del environment.globals["lipsum"]  # as much text as a number asks for
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> NoReturn:
    raise RaisedByTemplate(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
