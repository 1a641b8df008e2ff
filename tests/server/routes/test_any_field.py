"""Any value in any field is served or refused, never a failure of ours, nor ignored in silence."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bad_fields import NATIVE_PARAMETERS, OPENAI_FIELDS
from refusals import OPENAI, openai_body
from wire import Wire


async def test_ignored_fields_are_reported(wire: Wire) -> None:
    wire.will_say("x")
    body = openai_body("", user="me", metadata={}, store=True, verbosity="low", ünk=1)
    reply = await wire.client.post("/v1/completions", json=body)
    assert reply.status == 200
    assert reply.headers["x-ignored-params"] == "verbosity, %C3%BCnk"


async def test_values_that_ask_for_nothing_are_accepted(wire: Wire) -> None:
    wire.will_say("x")
    fields = {"n": 1, "echo": False, "tools": [], "tool_choice": "none", "suffix": "", "best_of": 1}
    nulls = dict.fromkeys(("audio", "functions", "stop", "logit_bias", "seed", "stream", "top_p"))
    for path in OPENAI:
        reply = await wire.client.post(path, json=openai_body(path, **fields, **nulls))
        assert reply.status == 200, await reply.text()
        assert "x-ignored-params" not in reply.headers


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELD_NAMES = sorted(
    {name for name, _ in NATIVE_PARAMETERS} | {name for name, _ in OPENAI_FIELDS} | {"prompt", "x"}
)


@settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.sampled_from(FIELD_NAMES), value=JSON_VALUES)
async def test_any_value_of_any_field(wire: Wire, name: str, value: object) -> None:
    """Served or refused, never a failure of ours."""
    wire.will_say("x")
    native = {"inputs": "hi", "parameters": {name: value}}
    replies = [await wire.client.post("/generate", json=native)]
    for path in OPENAI:
        replies.append(await wire.client.post(path, json=openai_body(path) | {name: value}))
    replies.append(await wire.client.post("/embed", json=native))
    for field in (name, "input"):
        body = {"model": "", "input": "hi"} | {field: value}
        replies.append(await wire.client.post("/v1/embeddings", json=body))
    for reply in replies:
        assert reply.status in (200, 400, 404, 422), await reply.text()
