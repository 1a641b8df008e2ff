"""What scripts/bench_engine.py runs: model shapes and workloads."""

from dataclasses import dataclass

SHAPES = {
    "llama-3-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
}
SHAPES["tiny"] = SHAPES["llama-3-8b"] | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


@dataclass(frozen=True)
class Case:
    name: str
    num_requests: int
    num_prompt: int
    num_output: int


CASES = {
    case.name: case
    for case in (
        Case("mixed", 512, 512, 128),
        Case("decode", 128, 64, 256),
        Case("single", 1, 64, 128),
    )
}
