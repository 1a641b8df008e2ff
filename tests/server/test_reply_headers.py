from urllib.parse import quote, unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.server.reply_headers import MAX_VALUE_BYTES, safe_value


@settings(derandomize=True)
@given(st.text(max_size=80))
def test_any_text_becomes_a_header_value_and_can_be_read_back(text: str) -> None:
    value = safe_value(text)
    assert all(" " <= c <= "~" for c in value)
    assert unquote(value) == text


@settings(derandomize=True)
@given(st.integers(0, 4), st.text("aö€😀%\r\n", min_size=400, max_size=512))
def test_what_is_cut_is_cut_between_characters(shift: int, text: str) -> None:
    text = "a" * shift + text
    value = safe_value(text)
    kept = unquote(value, errors="strict")
    assert text.startswith(kept)
    assert len(value) <= MAX_VALUE_BYTES
    if kept != text:
        assert len(value) + len(quote(text[len(kept)])) > MAX_VALUE_BYTES


def test_plain_ids_stay_as_they_are() -> None:
    assert safe_value("team/my-adapter_1@v2 (x)") == "team/my-adapter_1@v2 (x)"
    assert safe_value("a" * 512) == "a" * 512
