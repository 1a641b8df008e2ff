"""The OpenAPI document is what the code makes of itself, and the server shows it."""

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from fake_engine import FakeEngine
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.documentation import packaged_document
from lorax_serve.server.openapi import document as made
from lorax_serve.server.openapi.document import build_document, written
from lorax_serve.server.openapi.operations import OPERATIONS
from lorax_serve.server.openapi.schemas import Components
from lorax_serve.server.schema import messages, openai_replies
from lorax_serve.server.secret import Secret
from lorax_serve.server.version import version
from wire import Wire, make_service

DOCUMENT: dict[str, Any] = msgspec.json.decode(packaged_document())
OPERATIONS_SHOWN = [
    pytest.param(path, operation, id=operation["operationId"])
    for path, item in DOCUMENT["paths"].items()
    for operation in item.values()
]


def addresses(document: dict[str, Any]) -> list[str]:
    return sorted(
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    )


async def shown(wire_files: Path, admin_key: AdminKey | None) -> tuple[list[str], dict[str, Any]]:
    """The addresses that the application answers, and the document that it shows."""
    service = make_service(wire_files, FakeEngine(), admin_key=admin_key)
    app = build_app(service)
    async with TestClient(TestServer(app)) as client:
        document = await (await client.get("/openapi.json")).json()
    service.tokenizer.close()
    served = [
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    ]
    return sorted(served), document


def test_the_file_is_current() -> None:
    """If not: scripts/make_openapi.py."""
    assert packaged_document().decode() == written(build_document(version()))


@pytest.mark.parametrize("admin_key", [None, AdminKey(Secret("k" * 16))], ids=["public", "all"])
async def test_it_has_the_served_routes_and_no_others(
    wire_files: Path, admin_key: AdminKey | None
) -> None:
    served, document = await shown(wire_files, admin_key)
    assert addresses(document) == served
    OpenAPIV31SpecValidator(document).validate()
    if admin_key is None:
        text = msgspec.json.encode(document).lower()
        assert not re.search(rb"operator|admin|lora_name|adapterlist", text)
    else:
        assert document == DOCUMENT


def test_a_route_without_a_description_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {name: each for name, each in OPERATIONS.items() if name != "GET /info"}
    monkeypatch.setattr(made, "OPERATIONS", rest)
    with pytest.raises(KeyError, match="GET /info"):
        build_document("1")
    monkeypatch.setattr(made, "OPERATIONS", {**OPERATIONS, "GET /gone": OPERATIONS["GET /info"]})
    with pytest.raises(ValueError, match="GET /gone"):
        build_document("1")


@pytest.mark.parametrize(("path", "operation"), OPERATIONS_SHOWN)
def test_the_operator_s_routes_need_a_key(path: str, operation: dict[str, Any]) -> None:
    needs_key = all("operator" in each for each in operation.get("security", [{}]))
    assert needs_key == ("operator" in operation["tags"]) == ("403" in operation["responses"])
    assert needs_key == (path.startswith("/adapters") or "lora_adapter" in path)


@pytest.mark.parametrize(("path", "operation"), OPERATIONS_SHOWN)
def test_examples_are_what_they_are_examples_of(path: str, operation: dict[str, Any]) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        if "example" in content:
            Draft202012Validator(schema).validate(content["example"])


def test_two_structs_of_one_name_are_told_apart() -> None:
    components = Components((), {})
    components.reply(openai_replies.ToolCall)
    with pytest.raises(ValueError, match="ToolCall"):
        components.request(messages.ToolCall)


def request_schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of bodies, and of what is in them."""
    schemas = DOCUMENT["components"]["schemas"]
    bodies = [
        each.get("requestBody") for item in DOCUMENT["paths"].values() for each in item.values()
    ]
    seen: set[str] = set()
    new = set(names(bodies))
    while new:
        seen |= new
        new = {inner for name in new for inner in names(schemas[name])} - seen
    yield from ((name, schemas[name]) for name in sorted(seen))


def names(value: object) -> list[str]:
    text = msgspec.json.encode(value).decode()
    return re.findall(r'"#/components/schemas/(\w+)"', text)


@pytest.mark.parametrize(("name", "schema"), list(request_schemas()))
def test_a_null_is_an_absent_field(name: str, schema: dict[str, Any]) -> None:
    components = {"components": DOCUMENT["components"]}
    optional = schema["properties"].keys() - schema.get("required", ())
    for field in sorted(optional):
        inner = Draft202012Validator({**schema["properties"][field], **components})
        assert inner.is_valid(None), field


class PageReader(HTMLParser):
    """What a page loads, links to and calls its parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


async def test_the_page(wire: Wire) -> None:
    """It loads nothing, needs no script, and says where each schema it names is."""
    reply = await wire.client.get("/docs")
    text = await reply.text()
    read = PageReader(text)
    assert reply.content_type == "text/html"
    assert not read.tags & {"script", "link", "img", "iframe", "object", "base"}
    assert not read.attributes & {"style", "onclick", "onload", "action"}
    inside = {link.removeprefix("#") for link in read.links if link != "openapi.json"}
    assert inside <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    document = await (await wire.client.get("/openapi.json")).json()
    operations = [
        each["operationId"] for item in document["paths"].values() for each in item.values()
    ]
    assert {*operations, *document["components"]["schemas"]} == set(read.ids)


async def test_the_page_s_policy_lets_its_own_style_in(wire: Wire) -> None:
    reply = await wire.client.get("/docs")
    [style] = re.findall(r"<style>(.*?)</style>", await reply.text(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
