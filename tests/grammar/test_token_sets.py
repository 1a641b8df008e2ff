import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar_walks import ids_of
from lorax_serve.grammar.token_sets import TokenSets, bit_row, check_row, num_words
from lorax_serve.grammar.vocabulary import TokenVocabulary


@given(ids=st.sets(st.integers(0, 199)))
@settings(derandomize=True, deadline=None)
def test_bit_i_of_word_w_is_token_32_w_plus_i(ids: set[int]) -> None:
    row = bit_row(ids, num_words(200))
    assert row.dtype == np.int32
    assert row.shape == (7,)
    assert ids_of(row) == sorted(ids)


@pytest.mark.parametrize("vocab_size", [5, 31, 32, 33, 64])
def test_sets_split_text_end_and_the_rest(vocab_size: int) -> None:
    tokens = (None, b"a", None, b"b", *[b"c"] * 36)
    sets = TokenSets.of(TokenVocabulary(tokens, (0,)), vocab_size)
    expected = [i for i in range(min(vocab_size, 40)) if tokens[i] is not None]
    assert ids_of(sets.text) == expected
    assert ids_of(sets.eos) == [0]
    assert [i for i in range(-3, 200) if sets.is_text(i)] == expected
    assert sets.num_words == (vocab_size + 31) // 32


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (np.zeros(3, np.int64), r"expected an int32 row of shape \(3,\), got int64 \(3,\)"),
        (np.zeros(4, np.int32), r"got int32 \(4,\)"),
        (np.zeros((1, 3), np.int32), r"got int32 \(1, 3\)"),
        (np.zeros(6, np.int32)[::2], "contiguous"),
        (np.frombuffer(bytes(12), np.int32), "writable"),
    ],
)
def test_rows_of_another_shape_are_refused(row: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_row(row, 3)
