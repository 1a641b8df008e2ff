"""Templates that nobody vouches for: right ones render as transformers does, hostile ones end."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chat_templates import CHATML, LLAMA_2, LLAMA_3, LLAMA_3_2
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.text.isolated_templates import (
    MAX_IDLE,
    MAX_WAITING,
    IsolatedTemplates,
    TemplateLimits,
)
from lorax_serve.server.text.template_child import Render
from oracle_tokenizer import load_oracle
from tiny_tokenizers import write_byte_level

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS: list[dict[str, object]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi 😀"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Go on"},
]
GOOD = {"default": "{{ messages[-1].content }}!"}
HOSTILE = {
    "endless loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "endless number": "{{ (10 ** 9999999) ** 99 // 7 }}{{ messages[0].x ** 9 }}",
    "number at run time": "{% set n = messages | length %}{{ (n + 9) ** (n * 99999999) }}",
    "memory": "{% set n = messages | length %}{{ 'x' * (n * 9999999999) }}",
    "list": "{% set n = messages | length %}{{ [0] * (n * 999999999) }}",
    "growth": "{% set o = namespace(s='xxxxxxxx') %}"
    "{% for i in range(99) %}{% set o.s = o.s + o.s %}{% endfor %}{{ o.s }}",
    "long": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "folded while compiled": "{{ 'x' * 99999999999 }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__()[0] }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}{{ ''.__class__.x }}",
    "globals": "{{ raise_exception.__globals__['os'].environ }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}{{ x }}",
    "extends": "{% extends '/etc/passwd' %}",
    "no template": "{% for %}",
    "half a pair": "{{ '\\ud800' }}",
}


def render_of(turns: list[dict[str, object]]) -> Render:
    return Render(
        messages=turns,
        add_generation_prompt=True,
        continue_final_message=False,
        tools=None,
        documents=None,
        extra={},
    )


def processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest_asyncio.fixture
async def isolated() -> AsyncIterator[IsolatedTemplates]:
    made = IsolatedTemplates(TOKENS, TemplateLimits(cpu_seconds=1))
    yield made
    await made.close()


async def rendered(isolated: IsolatedTemplates, sources: dict[str, str]) -> str:
    async with isolated.open(sources) as child:
        return await child.render(render_of(TURNS))


@pytest.mark.parametrize("source", [CHATML, LLAMA_2, LLAMA_3, LLAMA_3_2])
async def test_as_transformers_renders_it(
    isolated: IsolatedTemplates, tmp_path: Path, source: str
) -> None:
    write_byte_level(tmp_path)
    config = {**TOKENS, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": source}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    oracle: Any = load_oracle(tmp_path)
    expected = oracle.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    assert await rendered(isolated, {"default": source}) == expected


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_template_fails_its_request_alone(
    isolated: IsolatedTemplates, name: str
) -> None:
    with pytest.raises(ServeError) as refused:
        await rendered(isolated, {"default": HOSTILE[name]})
    assert 400 <= refused.value.status < 500
    assert len(refused.value.message) < 400
    assert await rendered(isolated, GOOD) == "Go on!"


async def test_a_child_knows_nothing_of_our_environment(
    isolated: IsolatedTemplates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAX_HUB_TOKEN", "hf_secret")
    async with isolated.open(GOOD) as child:
        shown = Path(f"/proc/{child._process.pid}/environ").read_bytes()
    assert b"hf_secret" not in shown


async def test_a_child_is_used_again_and_for_no_other_template(
    isolated: IsolatedTemplates,
) -> None:
    async with isolated.open(GOOD) as first:
        pass
    async with isolated.open(GOOD) as again:
        assert again is first
        async with isolated.open({"default": "other"}) as other:
            assert other is not first


async def test_few_children_are_kept(isolated: IsolatedTemplates) -> None:
    processes = []
    for number in range(MAX_IDLE + 1):
        async with isolated.open({"default": str(number)}) as child:
            processes.append(child._process)
    assert [each.returncode is None for each in processes] == [False, *[True] * MAX_IDLE]
    await isolated.close()
    assert all(each.returncode is not None for each in processes)


async def test_a_killed_child_fails_one_request(isolated: IsolatedTemplates) -> None:
    async with isolated.open(GOOD) as child:
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(ServeError) as refused:
            await child.render(render_of(TURNS))
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert await rendered(isolated, GOOD) == "Go on!"


async def test_one_killed_while_idle_fails_none(isolated: IsolatedTemplates) -> None:
    async with isolated.open(GOOD) as child:
        pass
    os.kill(child._process.pid, signal.SIGKILL)
    await child._process.wait()
    assert await rendered(isolated, GOOD) == "Go on!"


async def test_a_wait_that_is_given_up_ends_the_child(isolated: IsolatedTemplates) -> None:
    async with isolated.open(GOOD) as child:
        os.kill(child._process.pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(child.render(render_of(TURNS)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not child.is_usable
    assert child._process.returncode is not None


async def test_a_silent_child_is_given_up() -> None:
    isolated = IsolatedTemplates(TOKENS, TemplateLimits(wall_seconds=0.01))
    async with isolated.open(GOOD) as child:
        os.kill(child._process.pid, signal.SIGSTOP)
        with pytest.raises(ServeError):
            await child.render(render_of(TURNS))
    await isolated.close()


async def test_a_slow_template_holds_up_itself_alone(isolated: IsolatedTemplates) -> None:
    slow = {"default": "slow"}
    async with isolated.open(slow):
        others = [asyncio.ensure_future(rendered(isolated, slow)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)  # all of them wait now, in more number than there are children
        assert await rendered(isolated, GOOD) == "Go on!"
        with pytest.raises(ServeError) as refused:
            await rendered(isolated, slow)
        assert refused.value.code is ErrorCode.QUEUE_FULL
    assert await asyncio.gather(*others) == ["slow"] * MAX_WAITING


async def test_each_line_has_its_processor_time(isolated: IsolatedTemplates) -> None:
    """Each of these renders has enough of a second; all of them together have not."""
    busy = {"default": "{% for i in range(90000) %}{% set x = i %}{% endfor %}done"}
    async with isolated.open(busy) as child:
        while processor_seconds(child._process.pid) < 2.5:
            assert await child.render(render_of(TURNS)) == "done"


@pytest.mark.parametrize(("memory_bytes", "is_enough"), [(2**29, False), (2**31, True)])
async def test_memory_is_limited_whatever_becomes_of_it(memory_bytes: int, is_enough: bool) -> None:
    isolated = IsolatedTemplates(TOKENS, TemplateLimits(memory_bytes=memory_bytes))
    source = "{% set n = messages | length %}{{ ('x' * (n * 160000000)) | length }}"
    if is_enough:
        assert await rendered(isolated, {"default": source}) == "640000000"
    else:
        with pytest.raises(ServeError):
            await rendered(isolated, {"default": source})
    await isolated.close()
