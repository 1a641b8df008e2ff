"""The options that say which adapters may come from elsewhere, and with which credentials."""

from typing import Final

from lorax_serve.server.option import Group, Option

ADAPTER_SOURCES: Final = Group(
    "Adapter sources",
    (
        Option(
            flags=("--adapter-allow",),
            name="adapter_allow",
            metavar="GLOBS",
            help="hub repositories that requests may name, as in org/*,me/one; a request "
            "without a token of its own uses --hub-token for them",
            unset="any, and --hub-token for none",
        ),
        Option(
            flags=("--private-adapter-grace",),
            name="private_adapter_grace",
            metavar="SECONDS",
            help="how long, while its source is out of reach, a private adapter that is here is "
            "served to callers whose own token the source accepted last; a refusal ends it at "
            "once, and with 0 they are answered 503",
        ),
        Option(
            flags=("--hub-endpoint",),
            name="hub_endpoint",
            metavar="URL",
            help="the hub that adapters and models come from, by https, or http on this machine",
            unset="https://huggingface.co",
            lorax_env=("HF_ENDPOINT",),
        ),
        Option(
            flags=("--hub-offline",),
            name="hub_offline",
            help="ask the hub nothing: models and public adapters fetched before are served",
            lorax_env=("HF_HUB_OFFLINE",),
        ),
        Option(
            flags=("--hub-token",),
            name="hub_token",
            metavar="TOKEN",
            help="the operator's own, for the base model and what --adapter-allow names; "
            "better set in the environment, where other users cannot see it",
            unset="none",
            lorax_env=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        ),
        Option(
            flags=("--bearer-is-adapter-token",),
            name="bearer_is_adapter_token",
            help="send a request's Authorization header to its adapter's source, as LoRAX does",
        ),
        Option(
            flags=("--s3-allow",),
            name="s3_allow",
            metavar="PLACES",
            help="buckets that requests may name adapters in, or folders of them, as in "
            "models,team/adapters; every caller may use what lies there",
            unset="none",
        ),
        Option(
            flags=("--s3-endpoint-url",),
            name="s3_endpoint_url",
            metavar="URL",
            help="a store other than Amazon's that speaks S3",
            unset="Amazon's",
            lorax_env=("S3_ENDPOINT_URL",),
        ),
        Option(
            flags=("--r2-account-id",),
            name="r2_account_id",
            metavar="ID",
            help="the buckets are Cloudflare R2's, of this account; goes before "
            "--s3-endpoint-url and --s3-region",
            unset="none",
            lorax_env=("R2_ACCOUNT_ID",),
        ),
        Option(
            flags=("--s3-region",),
            name="s3_region",
            metavar="NAME",
            help="region of the buckets",
            unset="us-east-1; with --s3-aws-chain what that finds",
            lorax_env=("AWS_REGION", "AWS_DEFAULT_REGION"),
        ),
        Option(
            flags=("--s3-default-bucket",),
            name="s3_default_bucket",
            metavar="BUCKET",
            help="where names of adapters without s3:// lie, and Predibase's paths",
            unset="none",
            lorax_env=("PREDIBASE_MODEL_BUCKET",),
        ),
        Option(
            flags=("--s3-default-folder",),
            name="s3_default_folder",
            metavar="FOLDER",
            help="folder of --s3-default-bucket that they lie in",
            unset="none",
            lorax_env=("PREDIBASE_MODEL_FOLDER",),
        ),
        Option(
            flags=("--s3-access-key-id",),
            name="s3_access_key_id",
            metavar="ID",
            help="the operator's key for buckets; without one requests are not signed",
            unset="none",
            lorax_env=("AWS_ACCESS_KEY_ID",),
        ),
        Option(
            flags=("--s3-secret-access-key",),
            name="s3_secret_access_key",
            metavar="SECRET",
            help="its secret; better set in the environment, where other users cannot see it",
            unset="none",
            lorax_env=("AWS_SECRET_ACCESS_KEY",),
        ),
        Option(
            flags=("--s3-session-token",),
            name="s3_session_token",
            metavar="TOKEN",
            help="of a temporary key, better set in the environment too; '' is none",
            unset="none",
            lorax_env=("AWS_SESSION_TOKEN",),
        ),
        Option(
            flags=("--s3-aws-chain",),
            name="s3_aws_chain",
            help="without a key, look for one where Amazon's tools do: profiles, ~/.aws, the "
            "container, the instance",
        ),
        Option(
            flags=("--predibase-gateway",),
            name="predibase_gateway",
            metavar="URL",
            help="where Predibase is asked about a caller's adapters, with the caller's token",
            unset="https://api.app.predibase.com",
            lorax_env=("PREDIBASE_GATEWAY_ENDPOINT",),
        ),
        Option(
            flags=("--predibase-allow",),
            name="predibase_allow",
            metavar="PLACES",
            help="buckets or folders that Predibase's adapters lie in; what --s3-allow names "
            "too, every caller may read",
            unset="--s3-default-bucket and its folder; without one Predibase is not served",
        ),
    ),
)
