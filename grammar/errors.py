"""What can go wrong with a constraint.

GrammarError
├── InvalidGrammar        the client's schema, pattern or choice is wrong, or uses what we cannot
│                         enforce; names the keyword
├── GrammarTooComplex     it is valid, but over a limit of size, time or memory
├── GuideRejected         a token was offered that the grammar does not allow here
└── UnsupportedTokenizer  the model's tokenizer.json does not say which bytes its tokens mean
"""


class GrammarError(Exception):
    """`message` is one sentence, safe to show to the client who sent the constraint."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidGrammar(GrammarError):
    """The constraint cannot be honoured as written."""


class GrammarTooComplex(GrammarError):
    """The constraint needs more than one request may use."""


class GuideRejected(GrammarError):
    """The token does not continue the text allowed so far; the guide is of no further use."""


class UnsupportedTokenizer(GrammarError):
    """No constraint can be enforced on this model; the message is for the operator."""
