"""Which hub models and adapters come from."""

from lorax_serve.server.config import ServerConfig
from lorax_serve.server.errors import StartError
from lorax_serve.server.sources.addresses import keeps_secrets
from lorax_serve.server.sources.hub_id import DEFAULT_ENDPOINT


def hub_endpoint(config: ServerConfig) -> str:
    """Any request may bring a token for the hub, whatever the operator set. Raises StartError."""
    endpoint = config.hub_endpoint or DEFAULT_ENDPOINT
    if not keeps_secrets(endpoint):
        raise StartError(
            f"--hub-endpoint {endpoint} is not https: tokens of callers and of --hub-token would "
            "cross the network unencrypted. http is for this machine alone (127.0.0.1, localhost)."
        )
    return endpoint
