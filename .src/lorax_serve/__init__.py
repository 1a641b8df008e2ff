"""lorax-serve: one base model, thousands of LoRA adapters, every request names its own."""
