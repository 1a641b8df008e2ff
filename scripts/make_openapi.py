"""Writes server/openapi/openapi.json, which the server shows at /openapi.json and as /docs.

    .venv/bin/python -P scripts/make_openapi.py

Run it whenever a route, a request's field or a reply's has changed: a test says so.
"""

from pathlib import Path

from lorax_serve.server.openapi.document import build_document, written
from lorax_serve.server.version import version

FILE = Path(__file__).resolve().parent.parent / "server" / "openapi" / "openapi.json"

if __name__ == "__main__":
    FILE.write_text(written(build_document(version())))
    print(FILE)
