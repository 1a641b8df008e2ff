"""Wrong values in LoRAX's parameters and beside them: one sentence with a 4xx."""

import pytest

from bad_fields import CONSTRAINTS, NATIVE_PARAMETERS
from refusals import NATIVE, refused, serves_on
from wire import Wire


@pytest.mark.parametrize(
    ("name", "value"), NATIVE_PARAMETERS, ids=lambda value: str(value)[:40].replace("\0", "")
)
async def test_native_parameters(wire: Wire, name: str, value: object) -> None:
    body = {"inputs": "hi", "parameters": {name: value}}
    for path in ("/generate", "/generate_stream"):
        sentence, kind = await refused(await wire.client.post(path, json=body), 422)
        assert kind == "validation"
        assert "secret" not in sentence
    await serves_on(wire)


OUTSIDE_PARAMETERS: list[tuple[str, object]] = [
    ("tools", [{}]),
    ("logit_bias", {"1": 5}),
    ("response_format", {}),
    ("merged_adapters", {"ids": ["alice"]}),
]


@pytest.mark.parametrize(("name", "value"), CONSTRAINTS + OUTSIDE_PARAMETERS)
async def test_constraints_beside_the_native_parameters(
    wire: Wire, name: str, value: object
) -> None:
    for path in NATIVE:
        reply = await wire.client.post(path, json={"inputs": "hi", name: value})
        sentence, kind = await refused(reply, 422)
        assert kind == "validation"
        assert f"`{name}` is not supported" in sentence
        assert "did you mean" not in sentence
    await serves_on(wire)


@pytest.mark.parametrize("body", [{}, {"inputs": ""}, {"inputs": None}, {"inputs": ["a"]}])
async def test_native_inputs(wire: Wire, body: dict[str, object]) -> None:
    for path in NATIVE:
        assert (await refused(await wire.client.post(path, json=body), 422))[1] == "validation"
    await serves_on(wire)
