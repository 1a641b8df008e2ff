from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.server.reply_headers import safe_value


@settings(derandomize=True)
@given(st.text(max_size=80))
def test_any_text_becomes_a_header_value_and_can_be_read_back(text: str) -> None:
    value = safe_value(text)
    assert all(" " <= c <= "~" for c in value)
    assert unquote(value) == text


def test_plain_ids_stay_as_they_are() -> None:
    assert safe_value("team/my-adapter_1@v2 (x)") == "team/my-adapter_1@v2 (x)"


def test_length_is_bounded() -> None:
    assert len(safe_value("ü" * 5000)) == 1024
