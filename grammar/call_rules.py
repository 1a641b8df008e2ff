"""How each family of models writes calls among its text, as rules of a Lark grammar.

`call_grammar` adds MARK, BEGUN_MARK (a part of it), `call` (one call's object), `calls_array`,
`bare_call` (a function's name, `args_mark` and its arguments), and of the tokens that are no text
`mark_token`, `close_token`, `call_id_token`, `args_token`, `shown_token` and `hidden_token`, one
that leaves no trace in what is searched for calls.
"""

import enum
from dataclasses import dataclass
from typing import Final


class CallFamily(enum.Enum):
    HERMES = "hermes"
    LLAMA3_JSON = "llama3_json"
    MISTRAL = "mistral"


@dataclass(frozen=True, slots=True)
class CallRules:
    """mark: what begins a call.

    orders: the keys of a call's object in every order that is allowed, as `any_call` takes them.
    start: all that a model may write; start_one: the same with one call at most.
    token_pattern: which tokens that are no text may stand in it, by their contents.
    hides_special: special tokens are left out of the text that is searched for calls.
    """

    mark: str
    orders: tuple[tuple[str, ...], ...]
    start: str
    start_one: str
    rules: str
    token_pattern: str = r"(?s:.*)"
    hides_special: bool = False


# TEXT holds no mark. UNBEGUN does not end inside one either: behind it stands a token that leaves
# no trace, so that the mark could go on.
_TEXTS: Final = r"""
ANY: /(?s:.)*/
TEXT: ANY & ~(ANY MARK ANY)
UNBEGUN: TEXT & ~(ANY BEGUN_MARK)
TEXT_TO_MARK: TEXT MARK
SPACE: /[ \n]{0,2}/
"""

_HERMES: Final = CallRules(
    mark="<tool_call>",
    # The prompt of Hermes 2 Pro puts the arguments first.
    orders=(("name", "arguments"), ("arguments", "name")),
    start="(open SPACE call SPACE close)* between TEXT",
    start_one="(open SPACE call SPACE close)? between TEXT",
    rules=_TEXTS
    + """
between: (TEXT shown_token | UNBEGUN hidden_token)*
open: between (TEXT_TO_MARK | TEXT mark_token)
close: "</tool_call>" | close_token
""",
    hides_special=True,
)

# A text that begins with an object is a call, and so is an object right behind a call.
_LLAMA3: Final = CallRules(
    mark="<|python_tag|>",
    orders=(("type", "name", "parameters"),),
    start="(LEAD calls)? (open SPACE calls)* end",
    start_one="((LEAD | open SPACE) call)? end",
    rules=_TEXTS
    + r"""
LEAD: /[ \t\r\n;]*/
PLAIN: TEXT & /[ \t\r\n;]*([^ \t\r\n;{](?s:.)*)?/
PLAIN_TO_MARK: PLAIN MARK
calls: call (BETWEEN_CALLS call)*
BETWEEN_CALLS: /[ \n]{0,2};[ \n]{0,2}|[ \n]{1,2}/
open: PLAIN_TO_MARK | PLAIN mark_token | further (TEXT_TO_MARK | TEXT mark_token)
further: PLAIN shown_token (TEXT shown_token)*
end: PLAIN | further TEXT
""",
    token_pattern=r"(?s:[ \t\r\n;]*[^ \t\r\n;{].*)",
)

# Behind calls, words before an object are a call's name; so no object follows but as a call.
_MISTRAL: Final = CallRules(
    mark="[TOOL_CALLS]",
    orders=(("name", "arguments", "id"),),
    start="between TEXT | open calls (SPACE_TO_MARK calls | SPACE mark_token calls)* end",
    start_one="between TEXT | open calls end",
    rules=_TEXTS
    + r"""
between: (TEXT shown_token)*
open: between (TEXT_TO_MARK | TEXT mark_token)
calls: SPACE (calls_array | bare_call)
SPACE_TO_MARK: SPACE MARK
args_mark: (("[CALL_ID]" | call_id_token) /[a-zA-Z0-9]{1,64}/)? ("[ARGS]" | args_token)?
FLAT: TEXT & /[^{]*/
end: (FLAT shown_token)* FLAT
""",
    token_pattern=r"[^{]*",
)

RULES: Final = {
    CallFamily.HERMES: _HERMES,
    CallFamily.LLAMA3_JSON: _LLAMA3,
    CallFamily.MISTRAL: _MISTRAL,
}
