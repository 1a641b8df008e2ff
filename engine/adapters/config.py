"""adapter_config.json: what PEFT wrote about an adapter, and which of it is served.

Field by field: honoured (AdapterConfig), refused by name when set (_REFUSED), or known not to
change what an adapter computes (_INFORMATIVE). A field that none of these knows is tolerated as
long as every tensor is accounted for, and reported in `unknown_fields`.
"""

import codecs
import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from lorax_serve.engine.adapters.files import describe_garbage
from lorax_serve.engine.adapters.label_head import HEAD_MODULES, KINDS
from lorax_serve.engine.adapters.patterns import PatternTable
from lorax_serve.engine.adapters.refusal import corrupt, incompatible, shown
from lorax_serve.engine.adapters.targeting import Targeting

CONFIG_NAME = "adapter_config.json"

_Rank = Annotated[int, Meta(ge=1, le=2**20)]
_Layer = Annotated[int, Meta(ge=0, lt=2**31)]
_Names = list[str] | str | None

_BASE_CHANGED = "needs base weights changed by its initialization"
_REFUSED = {
    "use_dora": "DoRA",
    "trainable_token_indices": "trained embeddings",
    "lora_bias": "a bias on lora_B",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow routing",
    "target_parameters": "LoRA on parameters that are not linears",
    "megatron_config": "Megatron layers",
}
_INFORMATIVE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",  # how training began, like the next three: init_lora_weights decides
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "ensure_weight_tying",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    }
)
# Initializations that leave the base weights as they are. Any other one may have changed them, and
# what was trained is right on the changed base alone. LoRA-GA is one of those: PEFT subtracts the
# first `scale * B A` from each base weight, as for PiSSA and OLoRA, though it loads such an adapter
# without a word. One that was converted when it was saved says `true` here.
_SERVED_INITS = frozenset({"true", "false", "gaussian", "eva", "orthogonal", "mica"})


class _Fields(Struct, frozen=True):
    """The honoured fields, with PEFT's defaults. A null counts as absent."""

    peft_type: str = "LORA"
    r: _Rank = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False
    rank_pattern: dict[str, _Rank] = {}
    alpha_pattern: dict[str, float] = {}
    target_modules: _Names = None
    exclude_modules: _Names = None
    layers_to_transform: list[_Layer] | _Layer | None = None
    layers_pattern: _Names = None
    init_lora_weights: bool | str = True
    bias: str = "none"  # biases are tensors: a trained one is found, and refused, among them
    fan_in_fan_out: bool = False  # PEFT forces it to false where the base layer is a linear
    modules_to_save: list[str] = []
    task_type: str = ""


class AdapterConfig:
    """What an adapter's config says about each module. Immutable."""

    def __init__(
        self, fields: _Fields, unknown_fields: tuple[str, ...], base_model: str | None
    ) -> None:
        self.unknown_fields = unknown_fields
        self.base_model = base_model  # that it says it was made for; a hint, shapes decide
        # The same for configs that say the same in what is honoured.
        said = fields if fields.modules_to_save else replace(fields, task_type="")
        self.canonical = msgspec.json.encode(said, order="sorted")
        self.targeting = Targeting(
            target_modules=fields.target_modules,
            exclude_modules=fields.exclude_modules,
            layers_to_transform=fields.layers_to_transform,
            layers_pattern=fields.layers_pattern,
        )
        # Of a classification head; None: the adapter is to have none.
        self.head_kind = KINDS.get(fields.task_type) if fields.modules_to_save else None
        self._fields = fields
        self._ranks = PatternTable("rank_pattern", fields.rank_pattern)
        self._alphas = PatternTable("alpha_pattern", fields.alpha_pattern)

    def rank(self, module: str) -> int:
        return self._ranks.lookup(module, self._fields.r)

    def scale(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA (https://arxiv.org/abs/2312.03732)."""
        alpha = self._alphas.lookup(module, self._fields.lora_alpha)
        return alpha / (math.sqrt(rank) if self._fields.use_rslora else rank)


def parse_config(data: bytes) -> AdapterConfig:
    """Raises Refusal: corrupt when it is no PEFT config, incompatible when it is not served."""
    raw = _parse_object(data)
    present = {key: value for key, value in raw.items() if value is not None}
    reasons = _refused_features(present)
    if reasons:
        raise incompatible(*reasons)
    try:
        fields = msgspec.convert(present, _Fields)
    except msgspec.ValidationError as error:
        raise corrupt(f"{CONFIG_NAME}: {error}") from None
    known = {*_Fields.__struct_fields__, *_INFORMATIVE, *_REFUSED}
    unknown = sorted(key for key, value in present.items() if key not in known and value)
    base_model = present.get("base_model_name_or_path")
    return AdapterConfig(
        fields, tuple(unknown), base_model if isinstance(base_model, str) else None
    )


def _parse_object(data: bytes) -> dict[str, Any]:
    garbage = describe_garbage(data)
    if garbage is not None:
        raise corrupt(f"{CONFIG_NAME} {garbage}")
    try:
        raw = _DECODER.decode(data.removeprefix(codecs.BOM_UTF8))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise corrupt(f"{CONFIG_NAME} is not valid JSON") from None
    if not isinstance(raw, dict):
        raise corrupt(f"{CONFIG_NAME} is not a JSON object")
    return raw


def _number(text: str) -> int | float:
    """What JSON writes with a point or an exponent; whole numbers (8.0) count as integers."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_DECODER = msgspec.json.Decoder(float_hook=_number)


def _refused_features(present: dict[str, Any]) -> list[str]:
    """Every reason, found in the unvalidated fields, why this kind of adapter is not served."""
    if "peft_type" not in present and "r" not in present:
        return [f"{CONFIG_NAME} has neither peft_type nor r"]
    peft_type = present.get("peft_type", "LORA")
    if peft_type != "LORA":
        return [f"peft_type {shown(peft_type)} is not served; LORA is"]
    reasons = [
        f"{key} ({what}) is not served" for key, what in _REFUSED.items() if present.get(key)
    ]
    reasons += _saved_modules(present)
    init = present.get("init_lora_weights", True)
    if str(init).lower() not in _SERVED_INITS:
        reasons.append(
            f"init_lora_weights={shown(init)} {_BASE_CHANGED}; convert the adapter to a plain one "
            "with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    return reasons


def _saved_modules(present: dict[str, Any]) -> list[str]:
    """Why its fully trained modules are not served: only heads are, of a task that is known."""
    saved = present.get("modules_to_save")
    if not saved:
        return []
    task = present.get("task_type")
    if not isinstance(saved, list) or not HEAD_MODULES.issuperset(map(str, saved)):
        return ["modules_to_save (fully trained modules) is not served, but for score, classifier"]
    if task not in KINDS:
        return [f"modules_to_save has a head, and task_type is none of {', '.join(KINDS)}"]
    return []
