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


# Of a grammar that a client wrote, which may be as ambiguous as it likes: so many Earley items cost
# ten milliseconds, in a step that others wait for. What is usual needs some dozens.
STEP_MAX_ITEMS = 5_000
MAX_ITEMS_IN_ROW = 1_000
STEP_LEXER_FUEL = 50_000


def lark_limits() -> LLParserLimits:
    """The same for what was not made here."""
    return LLParserLimits(
        initial_lexer_fuel=INITIAL_LEXER_FUEL,
        max_lexer_states=MAX_LEXER_STATES,
        step_lexer_fuel=STEP_LEXER_FUEL,
        step_max_items=STEP_MAX_ITEMS,
        max_items_in_row=MAX_ITEMS_IN_ROW,
        verbose_errors=False,
    )
