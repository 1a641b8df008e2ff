"""A prompt that ends inside of its last message, for the model to go on with it.

A mark is put at the end of the content, and the rendered text is cut where the mark has come to be.
Where the template strips contents, the blank at the mark's end is gone, and so is what was blank
before it, as `apply_chat_template(continue_final_message=True)` of transformers has it.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError

Message = Mapping[str, object]

_MARK_BYTES: Final = 16  # too many to be in a message by chance, or by somebody's wish


class ContinuedMessage:
    """Raises ServeError when the last message has no text to go on with."""

    def __init__(self, messages: Sequence[Message]) -> None:
        *before, last = messages
        content = last.get("content")
        if not isinstance(content, str):
            raise _refused("The last message has no content to continue.")
        self._content = content
        self._mark = f"mark-{secrets.token_hex(_MARK_BYTES)}"
        self.messages = [*before, {**last, "content": f"{content}{self._mark} "}]

    def cut(self, rendered: str) -> str:
        """The text before the mark. Raises ServeError where the template changed the content."""
        text, mark, after = rendered.rpartition(self._mark)
        if not mark or self._content.strip() not in text:
            raise _refused("The model's chat template does not show the last message as it is.")
        return text if after.startswith(" ") else text.rstrip()


def _refused(message: str) -> ServeError:
    return ServeError(ErrorCode.INVALID_REQUEST, message, param="continue_final_message")
