"""A vocabulary, what spells a text in it, and guides for calls among its texts."""

from pathlib import Path

from call_texts import FUNCTIONS
from grammar_tokenizers import EOS_TOKEN_IDS, VOCAB_SIZE
from lorax_serve.grammar.call_grammar import tool_call_grammar
from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.compiled import CompiledGrammar
from lorax_serve.grammar.control_tokens import load_control_tokens
from lorax_serve.grammar.guide import Guide, GuideFactory
from lorax_serve.grammar.vocabulary import load_vocabulary


class Model:
    """A tokenizer, and guides for what it may write."""

    def __init__(self, path: Path) -> None:
        self.control = load_control_tokens(path, EOS_TOKEN_IDS)
        self.ids = {token.content: token.id for token in self.control}
        self.vocabulary = load_vocabulary(path, EOS_TOKEN_IDS)
        self._factory = GuideFactory(path, vocab_size=VOCAB_SIZE, eos_token_ids=EOS_TOKEN_IDS)
        self._grammars: dict[tuple[CallFamily, bool], CompiledGrammar] = {}
        self.bytes = {b: ids[0] for b, ids in self.vocabulary.ids_by_bytes().items()}

    def guide(self, family: CallFamily, *, parallel: bool = True) -> Guide:
        if (family, parallel) not in self._grammars:
            self._grammars[family, parallel] = tool_call_grammar(
                family, FUNCTIONS, parallel=parallel, control_tokens=self.control
            )
        grammar = self._grammars[family, parallel]
        return self._factory.create(grammar.kind, grammar.payload, grammar.digest)

    def spell(self, fragment: str) -> list[int]:
        """Byte by byte; what begins with a zero byte is the token of that content."""
        if fragment.startswith("\0"):
            return [self.ids[fragment[1:]]]
        return [self.bytes[bytes([byte])] for byte in fragment.encode()]

    def text(self, family: CallFamily, ids: list[int]) -> str:
        """What the reader of calls is shown."""
        shown = {
            token.id: token.content.encode()
            for token in self.control
            if not (family is CallFamily.HERMES and token.is_special)
        }
        return b"".join(self.vocabulary.tokens[i] or shown.get(i, b"") for i in ids).decode()
