"""The OpenAPI document as a page for people: HTML and a style, no script, nothing of elsewhere."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from lorax_serve.server.openapi.headers import REQUEST_ID
from lorax_serve.server.openapi.types_shown import type_of

Object = Mapping[str, Any]

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c1c1c; background: #fff; }
code, pre { font: 14px/1.4 ui-monospace, monospace; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; }
details { border-top: 1px solid #ddd; padding: .4rem 0; }
summary { cursor: pointer; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0;
         border-bottom: 1px solid #eee; }
h4 { margin: 1rem 0 .2rem; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } a { color: #8ab4f8; } pre { background: #262626; }
  details { border-color: #444; } td, th { border-color: #333; }
}
"""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# What a browser may load for the page: its own style, and nothing at all from anywhere.
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
)


def page(document: Object) -> str:
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    tags = "".join(_tag(document, tag) for tag in document["tags"])
    schemas = "".join(_schema(name, s) for name, s in document["components"]["schemas"].items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1><p>{_prose(info['description'])}"
        f'</p><p>For programs: <a href="openapi.json">openapi.json</a>, OpenAPI '
        f"{escape(document['openapi'])}. Every reply has the header <code>{REQUEST_ID}</code>."
        "</p>\n"
        f"{tags}<h2>Schemas</h2>\n{schemas}</body></html>\n"
    )


def _tag(document: Object, tag: Object) -> str:
    shown = [
        _operation(document, method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if tag["name"] in operation["tags"]
    ]
    heading = f"<h2>{escape(tag['name'])}</h2><p>{_prose(tag['description'])}</p>\n"
    return heading + "".join(shown)


def _operation(document: Object, method: str, path: str, operation: Object) -> str:
    head = f"<code><b>{method.upper()}</b> {escape(path)}</code> {_prose(operation['summary'])}"
    body = _body(operation["requestBody"]) if "requestBody" in operation else ""
    replies = "".join(_reply(*each) for each in operation["responses"].items())
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>{head}</summary>'
        f"{_security(document, operation)}{body}"
        f"<h4>Replies</h4><table>{replies}</table></details>\n"
    )


def _security(document: Object, operation: Object) -> str:
    schemes = document["components"]["securitySchemes"]
    alternatives = operation.get("security", [])
    names = dict.fromkeys(name for each in alternatives for name in each)
    return "".join(
        f"<p>{'Needs' if all(name in each for each in alternatives) else 'May have'} "
        f"{_scheme(schemes[name])}: {_prose(schemes[name]['description'])}</p>"
        for name in names
    )


def _scheme(scheme: Object) -> str:
    header = "Authorization: Bearer …" if scheme["type"] == "http" else f"{scheme['name']}: …"
    return f"<code>{escape(header)}</code>"


def _body(body: Object) -> str:
    [content] = body["content"].values()
    needed = "" if body["required"] else " (may be absent)"
    example = ""
    if "example" in content:
        shown = json.dumps(content["example"], indent=2, ensure_ascii=False)
        example = f"<pre>{escape(shown)}</pre>"
    return f"<h4>Body</h4><p>{type_of(content['schema'])}{needed}</p>{example}"


def _reply(status: str, reply: Object) -> str:
    content = "<br>".join(
        f"<code>{escape(media)}</code>: {type_of(each['schema'])}"
        for media, each in reply.get("content", {}).items()
    )
    headers = ", ".join(
        f"<code>{escape(name)}</code>" for name in reply["headers"] if name != REQUEST_ID
    )
    return _row([escape(status), f"{_prose(reply['description'])}<br>{content}", headers])


def _schema(name: str, schema: Object) -> str:
    required = schema.get("required", ())
    rows = "".join(
        _row([f"<code>{escape(field)}</code>{' *' if field in required else ''}", _field(each)])
        for field, each in schema["properties"].items()
    )
    closed = "<p>No other fields.</p>" if schema.get("additionalProperties") is False else ""
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><table>{rows}</table>{closed}\n'


def _field(schema: Object) -> str:
    default = ""
    if "default" in schema:
        default = f"; {escape(json.dumps(schema['default']))} unless given"
    about = f". {_prose(schema['description'])}" if "description" in schema else ""
    return type_of(schema) + default + about


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _prose(text: str) -> str:
    """With what stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
