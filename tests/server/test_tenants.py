"""Who is whom, without a word about the credential."""

from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.server.tenants import ANONYMOUS, PrefixCacheScope, Tenants

tokens = st.none() | st.text(max_size=3)
salts = st.text(max_size=20)


def test_a_name_is_the_tokens_and_tells_nothing() -> None:
    ours, others = Tenants(b"ours"), Tenants(b"others")
    name = ours.name("hf_secret", is_proven=True)
    assert name == ours.name("hf_secret", is_proven=True)
    assert name != ours.name("hf_secret2", is_proven=True)
    assert name != others.name("hf_secret", is_proven=True)
    assert "secret" not in name + ours.prefix_salt("hf_secret", "")
    assert ours.name("", is_proven=True) != ANONYMOUS


def test_a_token_that_proved_nothing_names_nobody() -> None:
    ours = Tenants(b"ours")
    for token in (None, "", "hf_secret"):
        assert ours.name(token, is_proven=False) == ANONYMOUS


@given(tokens, salts, tokens, salts)
def test_salts_are_equal_for_equal_pairs_only(
    token: str | None, salt: str, other_token: str | None, other_salt: str
) -> None:
    """Whether the tokens proved something or not."""
    ours = Tenants(b"ours")
    same = (token, salt) == (other_token, other_salt)
    assert (ours.prefix_salt(token, salt) == ours.prefix_salt(other_token, other_salt)) == same


@given(tokens, salts, tokens, salts)
def test_where_all_share_only_salts_part_them(
    token: str | None, salt: str, other_token: str | None, other_salt: str
) -> None:
    ours = Tenants(b"ours", PrefixCacheScope.GLOBAL)
    same = salt == other_salt
    assert (ours.prefix_salt(token, salt) == ours.prefix_salt(other_token, other_salt)) == same
    assert ours.prefix_salt(token, "") == ""


def test_who_names_neither_has_no_salt() -> None:
    ours = Tenants(b"ours")
    assert ours.prefix_salt(None, "") == ""
    bringer = ours.name("hf_secret", is_proven=True)
    assert ours.prefix_salt(None, f"{bringer}/x") != ours.prefix_salt("hf_secret", "x")
