"""Which modules an adapter's config says it targets: PEFT's rules, as far as they concern linears.

The tensors decide what an adapter does. These rules only tell whether a tensor lies outside of what
its own config announces, in which case PEFT would ignore it and so must nobody.
"""

from lorax_serve.engine.adapters.patterns import (
    MAX_REGEXES,
    Matcher,
    compile_regex,
    full_matcher,
)
from lorax_serve.engine.adapters.refusal import incompatible

Names = list[str] | str | None

_ALL_LINEAR = "all-linear"
_OUTPUT_LAYER = "lm_head"  # the one linear that "all-linear" leaves out
_ANY_LAYER = r".*?\.[^.]*\.(\d+)\."  # the first number in the name


class Targeting:
    """Answers, for one adapter, why a module is not among its targets."""

    def __init__(
        self,
        *,
        target_modules: Names,
        exclude_modules: Names,
        layers_to_transform: list[int] | int | None,
        layers_pattern: Names,
    ) -> None:
        """Raises Refusal for patterns that are not served and for fields that contradict."""
        _check_consistent(target_modules, layers_to_transform, layers_pattern)
        self._targeted = _targets_matcher(target_modules)
        self._excluded = _names_matcher("exclude_modules", exclude_modules)
        if isinstance(layers_to_transform, int):
            layers_to_transform = [layers_to_transform]
        self._layers = frozenset(layers_to_transform or ())
        # A module named in full is a target whatever its layer.
        self._named = frozenset(target_modules if isinstance(target_modules, list) else ())
        self._layer_regexes = [
            compile_regex("layers_pattern", regex, written)
            for written, regex in _layer_patterns(layers_pattern)
        ]

    def why_not(self, module: str) -> str | None:
        """The field that leaves the module out; None when it is a target."""
        if self._excluded(module):
            return "exclude_modules"
        if not self._targeted(module):
            return "target_modules"
        if not self._layers or module in self._named or self._layer(module) in self._layers:
            return None
        return "layers_to_transform"

    def _layer(self, module: str) -> int | None:
        for regex in self._layer_regexes:
            match = regex.match(module)
            if match is not None:
                return int(match.group(1))
        return None


def _check_consistent(
    target_modules: Names, layers_to_transform: list[int] | int | None, layers_pattern: Names
) -> None:
    """Combinations that PEFT itself refuses."""
    if isinstance(target_modules, str) and layers_to_transform is not None:
        raise incompatible("layers_to_transform cannot be combined with a pattern target_modules")
    if layers_pattern and layers_to_transform is None:
        raise incompatible("layers_pattern is set without layers_to_transform")


def _targets_matcher(target_modules: Names) -> Matcher:
    if target_modules is None:
        # PEFT picks by architecture then, and writes its choice down; old files lack it.
        return lambda module: True
    if isinstance(target_modules, str) and target_modules.lower() == _ALL_LINEAR:
        return lambda module: module.rpartition(".")[2] != _OUTPUT_LAYER
    return _names_matcher("target_modules", target_modules)


def _names_matcher(field: str, names: Names) -> Matcher:
    """A string is a pattern for the whole name; a list holds names or ends of names."""
    if isinstance(names, str) and names:
        return full_matcher(field, names)
    known = frozenset(names or ())
    return lambda module: any(suffix in known for suffix in _dotted_suffixes(module))


def _dotted_suffixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _layer_patterns(layers_pattern: Names) -> list[tuple[str, str]]:
    """Each layer list's name as written, and the regex that finds the layer number after it."""
    if not layers_pattern:
        return [("", _ANY_LAYER)]
    names = [layers_pattern] if isinstance(layers_pattern, str) else layers_pattern
    if len(names) > MAX_REGEXES:
        raise incompatible(f"layers_pattern has {len(names)} patterns, more than {MAX_REGEXES}")
    return [(name, rf"(?:^|.*?\.){name}\.(\d+)\.") for name in names]
