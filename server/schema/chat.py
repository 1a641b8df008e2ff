"""The body of a chat request."""

from dataclasses import replace
from typing import Annotated

from msgspec import Meta, Raw, field

from lorax_serve.server.request import GenerationRequest
from lorax_serve.server.schema.common import ABSENT, ObjectShape, given_json, invalid, json_of
from lorax_serve.server.schema.constraints import only_one
from lorax_serve.server.schema.conversation import (
    Conversation,
    Documents,
    Messages,
    TemplateKwargs,
    conversation,
)
from lorax_serve.server.schema.openai import (
    MEANT,
    TOLERATED,
    UNSERVED,
    Count,
    GenerationBody,
    NumChoices,
    NumTop,
    generation_request,
)
from lorax_serve.server.schema.tools import (
    AskedTools,
    FunctionChoice,
    Functions,
    ToolChoice,
    Tools,
    asked_functions,
    asked_tools,
)
from lorax_serve.server.text.tool_calls.formats import CallFormat


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    messages: Messages
    n: NumChoices = 1
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: NumTop | None = None
    add_generation_prompt: bool | None = None  # true, but where the last message is continued
    continue_final_message: bool = False
    documents: Documents = ()
    chat_template_kwargs: TemplateKwargs = field(default_factory=dict)
    reasoning_effort: Annotated[str, Meta(max_length=32)] | None = None
    service_tier: Annotated[str, Meta(max_length=32)] | None = None  # any is answered "default"
    tools: Tools = ()
    tool_choice: Annotated[Raw, json_of(ToolChoice)] = ABSENT
    parallel_tool_calls: bool | None = None
    functions: Functions = ()
    function_call: Annotated[Raw, json_of(FunctionChoice)] = ABSENT

    def asked_tools(self) -> AskedTools | None:
        """Raises ServeError for what contradicts."""
        old = self.functions or given_json(self.function_call) not in (None, b'"none"')
        new = self.tools or given_json(self.tool_choice) not in (None, b'"none"')
        if old and new:
            raise invalid("functions", "cannot be given beside `tools`")
        if old:
            return asked_functions(self.functions, self.function_call)
        return asked_tools(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)


CHAT = ObjectShape(
    ChatBody,
    unserved=UNSERVED,
    tolerated=TOLERATED,
    large=("messages", "tools", "functions"),
    meant=MEANT,
)


def chat_conversation(body: ChatBody, *, shows_effort: bool) -> Conversation:
    """`shows_effort`: `reasoning_effort` is among the template's variables. Raises ServeError on
    fields that contradict, and messages that no template can read.
    """
    effort: dict[str, object] = {}
    if shows_effort and body.reasoning_effort is not None:
        effort["reasoning_effort"] = body.reasoning_effort
    return conversation(
        body.messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        documents=body.documents or None,
        kwargs={**effort, **body.chat_template_kwargs},
    )


def chat_request(
    body: ChatBody, prompt: str, tools: AskedTools | None = None, form: CallFormat | None = None
) -> GenerationRequest:
    """`prompt` is the rendered chat template. `form` is how the model writes calls of the tools, if
    it does; special tokens that mark them have to be in the text. Raises ServeError on fields that
    contradict.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs", "needs `logprobs` to be true")
    if body.max_tokens not in (None, body.max_completion_tokens or body.max_tokens):
        raise invalid("max_tokens", "differs from `max_completion_tokens`")
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    max_new_tokens = body.max_completion_tokens or body.max_tokens
    request = generation_request(
        body, prompt, num_logprobs, max_new_tokens, adds_special_tokens=False
    )
    calls = None if tools is None else tools.constraint(form.family if form else None)
    shows_marks = form is not None and form.marks_are_special
    return replace(
        request,
        num_branches=body.n,
        constraint=only_one([request.constraint, calls], "tool_choice"),
        skip_special_tokens=request.skip_special_tokens and not shows_marks,
    )
