"""The programs of examples/clients do what they show, against the real server."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from live_server import ROOT, LiveServer

PIRATE = "Yo ho ho! Keep an eye on th' weather, an' be a good o' matey. Fair winds to ye, arr!"
PARIS = "Arr, matey! Th' capital o' France be Paris. Yo ho ho!"
SHOWN = {
    "lorax_client.py": [
        "base: Staying healthy is a lifelong journey",
        f"pirate: {PIRATE}\n",
        "merged: Yo ho ho! Keep an eye on th' water an' eat a little bit o' vegetables.\n",
        "pirate, with the others: Yo ho ho! Keep an eye\n",
    ],
    "openai_chat.py": [
        "'extract', 'pirate', 'triage'",
        f"pirate: {PARIS}\n",
        f"stream: {PARIS}\n",
        "order: customer='Emma Lindgren' product='fishing rods' quantity=3 city='Perth'\n",
        "call: Weather city='Oslo' days=",
        "pirate, with the others: Arr, matey! Th' capital\n",
    ],
}


def test_every_example_is_run() -> None:
    names = {path.name for path in (ROOT / "examples" / "clients").iterdir() if path.is_file()}
    assert names == {*SHOWN, "curl.sh"}


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_shows(server: LiveServer, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "examples" / "clients" / name, "--base-url", server.url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for line in SHOWN[name]:
        assert line in done.stdout


@pytest.fixture(scope="module")
def curl(server: LiveServer) -> dict[str, str]:
    """What curl.sh prints, by heading."""
    done = subprocess.run(
        [ROOT / "examples" / "clients" / "curl.sh", server.url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    _, *parts = re.split(r"^# (.*)\n", done.stdout, flags=re.MULTILINE)
    return {heading: said.strip() for heading, said in zip(parts[::2], parts[1::2], strict=True)}


def one(curl: dict[str, str], begins: str) -> str:
    [said] = [said for heading, said in curl.items() if heading.startswith(begins)]
    return said


def events(said: str) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in said.split("\n\n")]


def choice(said: str) -> Any:
    [found] = json.loads(said)["choices"]
    return found


def test_curl_shows_loraxs_api(curl: dict[str, str]) -> None:
    assert json.loads(one(curl, "LoRAX: an answer")) == {"generated_text": PIRATE}
    *_, last = streamed = events(one(curl, "LoRAX: a stream"))
    assert "".join(event["token"]["text"] for event in streamed) == last["generated_text"]
    assert PIRATE.startswith(last["generated_text"])
    merged = json.loads(one(curl, "LoRAX: two adapters merged"))["generated_text"]
    assert merged not in ("", PIRATE)


def test_curl_shows_openais_api(curl: dict[str, str]) -> None:
    models = [model["id"] for model in json.loads(one(curl, "OpenAI: what"))["data"]]
    assert {"pirate", "triage", "extract"} < set(models)
    assert choice(one(curl, "OpenAI: a chat"))["message"]["content"] == PARIS
    *chunks, usage = events(one(curl, "OpenAI: a stream").removesuffix("data: [DONE]").strip())
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert PARIS.startswith(text)
    assert usage["usage"]["completion_tokens"] == 4
    assert PIRATE.startswith(choice(one(curl, "OpenAI: a completion"))["text"])
    vectors = json.loads(one(curl, "OpenAI: vectors"))["data"]
    assert [len(item["embedding"]) for item in vectors] == [576, 576]


def test_curl_shows_tools_json_and_an_error(curl: dict[str, str]) -> None:
    [call] = choice(one(curl, "OpenAI: a call"))["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] == "Oslo"
    order = json.loads(choice(one(curl, "OpenAI: an answer"))["message"]["content"])
    assert (order["customer"], order["quantity"]) == ("Emma Lindgren", 3)
    error, status = one(curl, "What is wrong").splitlines()
    assert (json.loads(error)["error"]["code"], status) == ("model_not_found", "404")
