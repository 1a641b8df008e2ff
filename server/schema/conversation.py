"""What a request says of its conversation, as the chat template is to render it."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from lorax_serve.server.schema.common import invalid, unsupported
from lorax_serve.server.schema.messages import Message, template_messages

Messages = Annotated[tuple[Message, ...], Meta(min_length=1, max_length=4096)]
Documents = Annotated[tuple[dict[str, object], ...], Meta(max_length=256)]
TemplateKwargs = Annotated[dict[str, object], Meta(max_length=64)]


class Conversation(Struct, frozen=True, kw_only=True):
    """Messages in the plain form a template reads, and how to render them."""

    messages: list[dict[str, object]]
    add_generation_prompt: bool
    continue_final_message: bool
    documents: tuple[dict[str, object], ...] | None = None
    kwargs: Mapping[str, object] = {}

    def check_kwargs(self, allowed: Iterable[str]) -> None:
        """Raises ServeError naming the first that the operator does not allow."""
        if refused := sorted(self.kwargs.keys() - set(allowed)):
            raise unsupported(f"chat_template_kwargs.{refused[0][:64]}")


def conversation(
    messages: tuple[Message, ...],
    *,
    add_generation_prompt: bool | None,
    continue_final_message: bool,
    documents: tuple[dict[str, object], ...] | None = None,
    kwargs: Mapping[str, object],
) -> Conversation:
    """Raises ServeError on what contradicts and on messages that no template can read."""
    if add_generation_prompt and continue_final_message:
        raise invalid("continue_final_message", "cannot be given beside `add_generation_prompt`")
    if add_generation_prompt is None:
        add_generation_prompt = not continue_final_message
    return Conversation(
        messages=template_messages(messages),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        documents=documents,
        kwargs=kwargs,
    )
