"""Who is whom, without a word about the credential."""

from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.server.tenants import ANONYMOUS, Tenants, prefix_salt

tenants = st.just(ANONYMOUS) | st.text("0123456789abcdef", min_size=16, max_size=16)
salts = st.text(max_size=20)


def test_a_name_is_the_tokens_and_tells_nothing() -> None:
    ours, others = Tenants(), Tenants()
    assert ours.name("hf_secret") == ours.name("hf_secret")
    assert ours.name("hf_secret") != ours.name("hf_secret2")
    assert ours.name("hf_secret") != others.name("hf_secret")
    assert "secret" not in ours.name("hf_secret")
    assert ours.name(None) == ANONYMOUS
    assert ours.name("") != ANONYMOUS


@given(tenants, salts, tenants, salts)
def test_salts_are_equal_for_equal_pairs_only(
    tenant: str, salt: str, other_tenant: str, other_salt: str
) -> None:
    same = (tenant, salt) == (other_tenant, other_salt)
    assert (prefix_salt(tenant, salt) == prefix_salt(other_tenant, other_salt)) == same


def test_who_names_neither_has_no_salt() -> None:
    assert prefix_salt(ANONYMOUS, "") == ""
    assert prefix_salt(ANONYMOUS, "0123456789abcdef/x") != prefix_salt("0123456789abcdef", "x")
