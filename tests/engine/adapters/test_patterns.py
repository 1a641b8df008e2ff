"""Patterns agree with PEFT's on module names, and cannot hang us."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from lorax_serve.engine.adapters.config import parse_config
from lorax_serve.engine.adapters.patterns import MAX_LENGTH, MAX_NAMES, PatternTable, full_matcher
from lorax_serve.engine.adapters.refusal import Refusal
from lorax_serve.engine.adapters.targeting import Targeting

MODULES = [
    f"model.layers.{layer}.{linear}"
    for layer in (0, 1, 11, 79)
    for linear in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
] + ["lm_head", "model.embed_tokens", "layers.1.mlp.up_proj", "visual.blocks.1.mlp.up_proj"]

KEYS = [
    "q_proj",
    "proj",
    "self_attn.q_proj",
    "layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
    "^model.layers.1.mlp.up_proj",
    "1.mlp.up_proj",
    "layers.1..*",
    "layers.[01].mlp.(up|down)_proj",
    r"layers\.\d+\.mlp\..*",
    "mlp|lm_head",
    "lm_head",
    "lm.head",
    "q.proj",
    "model.layers.1",
    "self_attn.q_pro",
    ".*",
    "",
    "(up|down)_proj$",
    "up_proj.",
    "x{2}",
]


@settings(derandomize=True, max_examples=400)
@given(keys=st.lists(st.sampled_from(KEYS), max_size=5, unique=True))
def test_lookup_is_get_pattern_key(keys: list[str]) -> None:
    table = PatternTable("rank_pattern", {key: key for key in keys})
    for module in MODULES:
        theirs = get_pattern_key(keys, module)
        assert table.lookup(module, "default") == (theirs if theirs in keys else "default")


@settings(derandomize=True, max_examples=600)
@given(key=st.text(alphabet="q_.1a", max_size=6), module=st.text(alphabet="q_.1a", max_size=8))
def test_plain_names_match_as_the_regexes_they_are(key: str, module: str) -> None:
    expected = re.match(rf"(.*\.)?({key})$", module) is not None
    assert PatternTable("rank_pattern", {key: True}).lookup(module, False) is expected


@pytest.mark.parametrize("pattern", [*KEYS, r".*layers\.[0-9]+\.self_attn.*", r"(?:model\b.*)"])
def test_full_matcher_is_fullmatch(pattern: str) -> None:
    matches = full_matcher("target_modules", pattern)
    for module in MODULES:
        assert matches(module) is (re.fullmatch(pattern, module) is not None)


NAMES = st.none() | st.lists(st.sampled_from(KEYS), max_size=3) | st.sampled_from(KEYS)


@settings(derandomize=True, max_examples=500)
@given(
    target_modules=NAMES.filter(lambda names: names is not None),
    exclude_modules=NAMES,
    layers_to_transform=st.none() | st.integers(0, 1) | st.lists(st.integers(0, 11), max_size=2),
    layers_pattern=st.none() | st.sampled_from(["layers", "blocks", ["blocks", "layers"], "l.*"]),
)
def test_targeting_is_check_target_module_exists(
    target_modules: Any, exclude_modules: Any, layers_to_transform: Any, layers_pattern: Any
) -> None:
    if isinstance(target_modules, str):
        layers_to_transform = None
    if layers_to_transform is None:
        layers_pattern = None
    fields = {
        "target_modules": target_modules,
        "exclude_modules": exclude_modules,
        "layers_to_transform": layers_to_transform,
        "layers_pattern": layers_pattern,
    }
    targeting = Targeting(**fields)
    theirs = SimpleNamespace(**fields, target_parameters=None)
    for module in MODULES:
        expected = check_target_module_exists(theirs, module)
        found = bool(expected) and type(expected).__name__ != "_ExcludedModule"
        assert (targeting.why_not(module) is None) == found, module


HOSTILE = [
    "(([a-z_.0-9]+)+X)",
    "(.*.*.*.*.*.*.*.*)*Z",
    "(?:[a-z]?[._]?){190}Z",
    "(a|a|a|a)*(.*)*(.+)+Z",
    "(.*a.{20}){3}.*x{100}Z",
]
BIG_MODEL = [f"model.layers.{i}.{p}_proj" for i in range(80) for p in ("q", "k", "v", "o", "up")]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_hostile_patterns_end_at_once(pattern: str) -> None:
    """With `re` each of these would outlive the test run; here the whole model takes a moment."""
    keys = [f"{pattern}|{number}" for number in range(4)]
    table = PatternTable("rank_pattern", dict.fromkeys(keys, 1))
    assert all(table.lookup(module, 0) == 0 for module in BIG_MODEL)
    matches = full_matcher("target_modules", pattern)
    assert not any(matches(module) for module in BIG_MODEL)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?!x)q_proj",
        "(?<=q)_proj",
        r"(a)\1",
        "(",
        "a)|(b",
        "a{1001}",
        "((a{900}){900}){900}",
        "x{,5}",
        "(?:[a-z]?[._]?){500}Z",
        "q" * (MAX_LENGTH + 1),
        "[",
        "*",
        r"\Z",
        "\ud800",
    ],
)
def test_patterns_that_are_not_served_are_refused(pattern: str) -> None:
    with pytest.raises(Refusal, match="target_modules"):
        full_matcher("target_modules", pattern)
    with pytest.raises(Refusal, match="alpha_pattern"):
        PatternTable("alpha_pattern", {pattern + "+": 1, pattern: 1, "(" + pattern: 1})


def test_a_name_for_each_linear_of_a_large_model_is_served() -> None:
    names = {f"model.layers.{i}.mlp.up_proj": i + 1 for i in range(500)}
    table = PatternTable("rank_pattern", names)
    assert all(table.lookup(name, 0) == rank for name, rank in names.items())
    with pytest.raises(Refusal, match="patterns"):
        PatternTable("rank_pattern", {f"x{i}": 1 for i in range(MAX_NAMES + 1)})


def test_scales_and_ranks_follow_the_patterns() -> None:
    config = parse_config(
        b'{"r": 4, "lora_alpha": 6, "use_rslora": true, "rank_pattern": {"q_proj": 16},'
        b' "alpha_pattern": {"layers.1.*": 8}}'
    )
    assert config.rank("model.layers.0.q_proj") == 16
    assert config.scale("model.layers.0.q_proj", 16) == 6 / 4
    assert config.scale("model.layers.1.q_proj", 16) == 2.0
    assert config.scale("model.layers.0.v_proj", 4) == 3.0
