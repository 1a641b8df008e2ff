"""A chat template that shows tools, tools to show, and a call as a model writes it."""

import shutil
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for t in tools or [] %}[{{ t | tojson }}]{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}"
)
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time."}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
FORCED = '[{"name": "weather", "parameters": {"city": "Rome"}}]'
NAMED = {"type": "function", "function": {"name": "weather"}}


def with_tool_template(wire_files: Path, folder: Path) -> Path:
    """`folder`, with a copy of the files, whose model has that template."""
    shutil.copytree(wire_files, folder, dirs_exist_ok=True)
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    return folder
