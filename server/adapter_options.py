"""The options about adapters: where they lie, how much room they have, which are there at start."""

from typing import Final

from lorax_serve.server.option import Group, Option

ADAPTERS: Final = Group(
    "Adapters",
    (
        Option(
            flags=("--adapter-dir",),
            name="adapter_dir",
            metavar="FOLDER",
            help="adapters in it are named by their path below it",
            unset="none; the demo's own when serving the demo from a checkout",
        ),
        Option(
            flags=("--allow-absolute-adapters",),
            name="allow_absolute_adapters",
            help="let requests name adapters anywhere on this machine, by absolute path",
        ),
        Option(
            flags=("--adapter-source", "--default-adapter-source"),
            name="adapter_source",
            metavar="SOURCE",
            help="local, hub, s3 or pbase: where an adapter is looked up whose request names "
            "no source",
            unset="local with an adapter folder, hub without",
            lorax_env=("DEFAULT_ADAPTER_SOURCE", "ADAPTER_SOURCE"),
        ),
        Option(
            flags=("--adapter-chat-templates",),
            name="adapter_chat_templates",
            help="render chats with the template that came with their adapter, if one did; such "
            "a template runs apart, with little time and memory",
        ),
        Option(
            flags=("--adapter-cache-dir",),
            name="adapter_cache_dir",
            metavar="FOLDER",
            help="where fetched adapters are kept; one server at a time may use it. Name one for "
            "each of several servers: without, which folder one takes follows from the order in "
            "which they start, and it finds what was fetched into that one alone",
            unset="the first folder in --cache-dir that no other server has",
        ),
        Option(
            flags=("--adapter-cache-bytes",),
            name="adapter_cache_bytes",
            metavar="SIZE",
            is_size=True,
            help="disk for fetched adapters; those unused for longest go first",
        ),
        Option(
            flags=("--max-adapter-bytes",),
            name="max_adapter_bytes",
            metavar="SIZE",
            is_size=True,
            help="larger adapters are not fetched",
        ),
        Option(
            flags=("--max-adapter-downloads",),
            name="max_adapter_downloads",
            metavar="NUMBER",
            help="adapters fetched at the same time from one source, and twice as many from all; "
            "those that get next to no bytes do not count",
        ),
        Option(
            flags=("--adapter-download-timeout",),
            name="adapter_download_timeout",
            metavar="SECONDS",
            help="how long a request waits for its adapter's files; the download goes on at the "
            "next one where it broke off",
        ),
        Option(
            flags=("--preload", "--preloaded-adapter-ids"),
            name="preload",
            metavar="NAMES",
            repeats=True,
            help="adapters, as in support,team/ops, that are loaded before the server is "
            "ready; it does not start without them; not Predibase's, which only "
            "their caller's token opens",
            unset="none",
            lorax_env=("PRELOADED_ADAPTER_IDS",),
        ),
        Option(
            flags=("--pin",),
            name="pin",
            metavar="NAMES",
            repeats=True,
            help="the same, and they stay on the device",
            unset="none",
        ),
        Option(
            flags=("--preload-source", "--preloaded-adapter-source"),
            name="preload_source",
            metavar="SOURCE",
            help="where the adapters of --preload and --pin come from",
            unset="that of requests which name none",
            lorax_env=("PRELOADED_ADAPTER_SOURCE",),
        ),
        Option(
            flags=("--adapter-memory",),
            name="adapter_pool_bytes",
            metavar="SIZE",
            is_size=True,
            help="memory beside the model for adapters in use",
            unset="256 MiB on a CPU, 0.15 of a GPU",
        ),
        Option(
            flags=("--max-slots-per-tenant",),
            name="max_slots_per_tenant",
            metavar="NUMBER",
            help="adapters in --adapter-memory that were copied there for one tenant; its next one "
            "takes the place of one of these. Requests whose token proved nothing, or without one, "
            "are one tenant",
            unset="any number",
        ),
        Option(
            flags=("--host-adapter-memory",),
            name="host_adapter_bytes",
            metavar="SIZE",
            is_size=True,
            help="memory of the host for adapters that are not on the device, or no longer; "
            "on a GPU it is taken and pinned at start",
            unset="a quarter of what is available, at most 512 MiB on a CPU, 32 GiB with a GPU",
        ),
        Option(
            flags=("--max-adapter-rank",),
            name="max_adapter_rank",
            metavar="RANK",
            help="adapters of a higher rank are refused",
        ),
        Option(
            flags=("--max-loading",),
            name="max_loading",
            metavar="NUMBER",
            help="adapters read from disk at the same time",
            unset="2 on a CPU, 8 with a GPU",
        ),
    ),
)
