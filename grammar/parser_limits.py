"""The fuel llguidance may burn, equal in the frontend's check and in the engine.

Values are counts, not seconds, so a grammar that passes on one machine passes on all.
"""

from llguidance import LLParserLimits

# A tenth of a second for the costliest lexer that is still accepted. A pattern such as
# (x{1000}){1000} takes over a second under the library's default of 1,000,000.
INITIAL_LEXER_FUEL = 200_000
# One to two kB each, so a matcher stays under 100 MB; ordinary schemas need hundreds.
MAX_LEXER_STATES = 50_000


def parser_limits() -> LLParserLimits:
    """Fresh limits; everything not named here is the library's default."""
    return LLParserLimits(
        initial_lexer_fuel=INITIAL_LEXER_FUEL,
        max_lexer_states=MAX_LEXER_STATES,
        verbose_errors=False,  # its verbose errors quote the generated text
    )
