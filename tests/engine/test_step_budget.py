"""A step's tokens: all of them are given, and no tenant's prompts keep another's waiting."""

from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.engine.step_budget import StepBudget

TENANTS = ("a", "b", "c")


def test_one_tenant_has_the_whole_step() -> None:
    budget = StepBudget(100)
    for _ in range(10):
        budget.decode()
    budget.share(1)
    assert budget.is_whole and budget.most("a") == budget.left == 90


def test_each_of_several_is_sure_of_an_equal_part() -> None:
    budget = StepBudget(800)
    budget.share(2)
    assert budget.most("a") == budget.most("b") == 100, "a quarter is shared"
    budget.take("a", 700)  # the rest of the step too
    assert not budget.is_whole
    assert (budget.most("a"), budget.most("b"), budget.left) == (0, 100, 100)
    budget.give_back("a", 650)
    assert (budget.most("a"), budget.most("b")) == (50, 100)


@given(st.integers(1, 50), st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 60))))
def test_nothing_is_given_twice_and_something_to_everybody(
    num_tokens: int, wanted: list[tuple[str, int]]
) -> None:
    budget = StepBudget(num_tokens)
    budget.share(len(TENANTS))
    given_to = dict.fromkeys(TENANTS, 0)
    for tenant, number in wanted:
        num_given = min(number, budget.most(tenant))
        budget.take(tenant, num_given)
        given_to[tenant] += num_given
    assert sum(given_to.values()) + budget.left == num_tokens
    assert budget.left >= 0
    if num_tokens >= len(TENANTS):
        assert all(given_to[tenant] for tenant, _ in wanted)
