"""A grammar matched byte by byte: enough to see, without a model's tokens, whether it can be."""

import functools

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from lorax_serve.grammar.parser_limits import parser_limits


class _Bytes:
    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<eos>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@functools.cache
def byte_tokenizer() -> LLTokenizer:
    """Token i is the byte i; 256 ends a text."""
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def byte_matcher(grammar: str, limits: LLParserLimits | None = None) -> LLMatcher:
    """At the start of the text; its `is_error` tells of what is over the limits, unless they are
    given `parser_limits`.
    """
    return LLMatcher(byte_tokenizer(), grammar, limits=limits or parser_limits(), log_level=0)
