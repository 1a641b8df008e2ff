"""Every option of lorax-serve, in the order of --help."""

from typing import Final

from lorax_serve.server.adapter_options import ADAPTERS
from lorax_serve.server.option import Group, Option
from lorax_serve.server.source_options import ADAPTER_SOURCES

GROUPS: Final = (
    Group(
        "Model",
        (
            Option(
                flags=("--model-id",),
                name="model_id",
                metavar="MODEL",
                help="what to serve: a local Hugging Face folder, or a hub id, with @revision "
                "if you like",
                unset="the demo model",
                lorax_env=("MODEL_ID",),
            ),
            Option(
                flags=("--revision",),
                name="revision",
                metavar="NAME",
                help="branch, tag or commit of a hub model",
                unset="the hub's main branch",
                lorax_env=("REVISION",),
            ),
            Option(
                flags=("--cache-dir",),
                name="cache_dir",
                metavar="FOLDER",
                help="where downloaded and prepared models are kept",
            ),
            Option(
                flags=("--device",),
                name="device",
                metavar="NAME",
                help="auto, cpu or cuda; auto takes a GPU if there is one",
            ),
            Option(
                flags=("--dtype",),
                name="dtype",
                metavar="NAME",
                help="auto, float32, float16 or bfloat16; auto is the checkpoint's own on a GPU "
                "and float32 on a CPU",
                lorax_env=("DTYPE",),
            ),
            Option(
                flags=("--max-model-len", "--max-total-tokens"),
                name="max_model_len",
                metavar="TOKENS",
                help="prompt and output tokens of one request",
                unset="what the model and the KV cache allow",
                lorax_env=("MAX_TOTAL_TOKENS",),
            ),
            Option(
                flags=("--embedding-pooling",),
                name="embedding_pooling",
                metavar="NAME",
                help="what an embedding is made of: last, the last token's hidden state, or mean, "
                "that of all tokens; as the model or its adapters were trained",
            ),
        ),
    ),
    ADAPTERS,
    ADAPTER_SOURCES,
    Group(
        "Scheduling and memory",
        (
            Option(
                flags=("--kv-cache-memory",),
                name="kv_cache_bytes",
                metavar="SIZE",
                is_size=True,
                help="memory for the keys and values of running and cached tokens",
                unset="384 MiB on a CPU, what is left of a GPU",
            ),
            Option(
                flags=("--block-size",),
                name="block_size",
                metavar="TOKENS",
                help="tokens of one KV cache block",
                unset="16 on a CPU; on a GPU 256 with flash-attn, else 64",
            ),
            Option(
                flags=("--prefix-cache",),
                name="prefix_cache",
                help="reuse the keys and values of prompts that begin alike",
            ),
            Option(
                flags=("--prefix-cache-scope",),
                name="prefix_cache_scope",
                metavar="NAME",
                help="tenant, where requests with the same token (or none) share them, or global, "
                "where all do: how soon an answer begins then tells callers what others have asked",
            ),
            Option(
                flags=("--max-num-sequences",),
                name="max_num_sequences",
                metavar="NUMBER",
                help="requests that run at the same time; the others wait",
                unset="64 on a CPU, 256 on a GPU",
            ),
            Option(
                flags=("--max-batch-tokens",),
                name="max_batch_tokens",
                metavar="TOKENS",
                help="tokens of one step, prompts and outputs together",
                unset="512 on a CPU, 8192 on a GPU",
            ),
            Option(
                flags=("--gpu-memory-share",),
                name="gpu_memory_share",
                metavar="SHARE",
                help="how much of a GPU's memory to use for everything, from 0 to 1",
            ),
            Option(
                flags=("--attention-backend",),
                name="attention_backend",
                metavar="NAME",
                help="auto, flash, triton or torch; auto takes flash-attn on a GPU where it is "
                "installed and fits the model",
            ),
            Option(
                flags=("--cuda-graphs",),
                name="cuda_graphs",
                help="replay decode steps as CUDA graphs",
            ),
            Option(
                flags=("--num-threads",),
                name="num_threads",
                metavar="NUMBER",
                help="CPU threads of the engine",
                unset="PyTorch decides",
            ),
        ),
    ),
    Group(
        "Server",
        (
            Option(
                flags=("--host", "--hostname"),
                name="host",
                metavar="ADDRESS",
                help="address to listen on; 0.0.0.0 is every IPv4 address of this machine",
            ),
            Option(
                flags=("--port",),
                name="port",
                metavar="PORT",
                help="port to listen on; 0 takes a free one",
                lorax_env=("PORT",),
            ),
            Option(
                flags=("--frontends",),
                name="frontends",
                metavar="NUMBER",
                help="processes that share the port, tokenize and stream; each takes its part of "
                "--max-concurrent-requests, --max-waiting-requests, --max-adapter-downloads and "
                "--adapter-cache-bytes. Two or more go without the operator's routes, --preload, "
                "--pin and --adapter-cache-dir",
            ),
            Option(
                flags=("--chat-template-kwargs",),
                name="chat_template_kwargs",
                metavar="NAMES",
                help="variables of the model's chat template that requests may set, with commas "
                "between them",
            ),
            Option(
                flags=("--tool-call-parser",),
                name="tool_call_parser",
                metavar="NAME",
                help="how the model writes calls of tools: hermes, llama3_json, mistral, none, or "
                "auto, as its chat template teaches it",
            ),
            Option(
                flags=("--admin-key",),
                name="admin_key",
                metavar="KEY",
                help="opens the operator's routes, which do not exist without it; better set in "
                "the environment, where other users cannot see it",
                unset="none",
            ),
            Option(
                flags=("--shutdown-timeout",),
                name="shutdown_timeout",
                metavar="SECONDS",
                help="how long open requests may go on after Ctrl-C or SIGTERM; a second signal "
                "ends them at once",
            ),
        ),
    ),
    Group(
        "Limits",
        (
            Option(
                flags=("--max-concurrent-requests",),
                name="max_concurrent_requests",
                metavar="NUMBER",
                help="open requests, running and waiting; more are answered 429. One with several "
                "prompts or choices counts as that many",
                lorax_env=("MAX_CONCURRENT_REQUESTS",),
            ),
            Option(
                flags=("--max-waiting-requests",),
                name="max_waiting_requests",
                metavar="NUMBER",
                help="beside those, requests whose adapter is being fetched; as many again that "
                "wait for a source's word about one that is here; half of either may wait for "
                "one adapter with one credential; more are answered 429",
            ),
            Option(
                flags=("--max-choices",),
                name="max_choices",
                metavar="NUMBER",
                help="answers of one request: its prompts times `n` or `best_of`",
            ),
            Option(
                flags=("--max-body-bytes",),
                name="max_body_bytes",
                metavar="SIZE",
                is_size=True,
                help="size of one request's body",
            ),
            Option(
                flags=("--max-stop-sequences",),
                name="max_stop_sequences",
                metavar="NUMBER",
                help="stop sequences of one request",
                lorax_env=("MAX_STOP_SEQUENCES",),
            ),
        ),
    ),
    Group(
        "Logs and metrics",
        (
            Option(
                flags=("--metrics-max-adapters",),
                name="metrics_max_adapters",
                metavar="NUMBER",
                help="adapters that have a label of their own in /metrics, those that are used "
                "most; the rest is `other`",
            ),
            Option(
                flags=("--log-level",),
                name="log_level",
                metavar="LEVEL",
                help="debug, info, warning or error",
            ),
            Option(
                flags=("--log-format",),
                name="log_format",
                metavar="FORMAT",
                help="text, json, or auto: text on a terminal and JSON lines elsewhere",
            ),
            Option(
                flags=("--debug",),
                name="debug",
                help="log at debug level, and show tracebacks of errors at start",
            ),
        ),
    ),
)

OPTIONS: Final = tuple(option for group in GROUPS for option in group.options)
