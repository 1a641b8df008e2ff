"""Errors that fit, and end where a reason does."""

from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.engine.refusal_reasons import grouped, joined
from lorax_serve.ipc.types import ErrorCode


def test_layers_are_counted() -> None:
    layers = [f"model.layers.{n}.q_proj has shape 3" for n in range(40)]
    assert grouped(["first", *layers, "model.layers.7.v_proj is odd"]) == [
        "first",
        "model.layers.*.q_proj has shape 3 (40 layers)",
        "model.layers.7.v_proj is odd",
    ]


@given(
    st.lists(st.text("ab é", min_size=1, max_size=60), min_size=1, max_size=12, unique=True),
    st.integers(0, 400),
)
def test_reasons_are_whole_and_all_are_counted(reasons: list[str], max_bytes: int) -> None:
    text = joined(reasons, max_bytes=max_bytes)
    forms = []
    for number in range(1, min(len(reasons), 5) + 1):
        num_more = len(reasons) - number
        more = f"; and {num_more} more" if num_more else ""
        forms.append("; ".join(reasons[:number]) + more)
    fitting = [form for form in forms if len(form.encode()) <= max_bytes]
    assert text == (fitting or forms[:1])[-1]


def test_a_wrong_base_is_told_in_an_error_that_fits() -> None:
    sides = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    reasons = [
        f"model.layers.{layer}.{side} is [4096, 4096] on this base, the adapter has [2048, 2048]"
        for layer in range(32)
        for side in sides
    ]
    message = AdapterRejected("team/support", ErrorCode.ADAPTER_INCOMPATIBLE, reasons).message
    assert len(message.encode()) <= 400
    assert "(32 layers)" in message and message.endswith(" more.")
