"""What `python -m lorax_serve.engine.check_adapter` reads on its standard input: one JSON line."""

from msgspec import Struct

from lorax_serve.ipc.config import EngineConfig


class AdapterCheck(Struct, frozen=True, forbid_unknown_fields=True):
    path: str  # absolute folder of the adapter
    engine: EngineConfig  # of the server it is meant for; of the model, config.json has to be there
