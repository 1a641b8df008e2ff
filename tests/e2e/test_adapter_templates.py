"""An adapter's own chat template on the real server, against its prompt spelled out."""

import shutil
from pathlib import Path

from e2e_constants import CACHE
from live_server import ADAPTERS, LiveServer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}pirate:"
)
PROMPT = "<|im_start|>user: Hello, who are you?\npirate:"
OPTIONS = {"model": "own", "temperature": 0, "max_tokens": 12}
MESSAGES = [{"role": "user", "content": "Hello, who are you?"}]


def test_chats_are_rendered_with_it(demo_model: Path, tmp_path: Path) -> None:
    shutil.copytree(Path(ADAPTERS) / "pirate", tmp_path / "adapters/own")
    (tmp_path / "adapters/own/chat_template.jinja").write_text(TEMPLATE)
    options = ("--adapter-dir", tmp_path / "adapters", "--cache-dir", CACHE)
    with LiveServer(*options, "--adapter-chat-templates", log=tmp_path / "log") as server:
        status, chat = server.post("/v1/chat/completions", {**OPTIONS, "messages": MESSAGES})
        assert status == 200, chat
        body = {**OPTIONS, "prompt": PROMPT, "add_special_tokens": False}
        status, completion = server.post("/v1/completions", body)
        assert status == 200, completion
        said = chat["choices"][0]["message"]["content"]
        assert (said, chat["usage"]["prompt_tokens"]) == (
            completion["choices"][0]["text"],
            completion["usage"]["prompt_tokens"],
        )
    assert "Traceback" not in (tmp_path / "log").read_text()
