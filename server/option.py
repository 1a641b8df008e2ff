"""What an option of lorax-serve is: its flags, words and the configuration field it sets.

Types, bounds and defaults are the fields' own. An option is also read from LORAX_<FLAG>; where an
operator of LoRAX has set a variable that that server reads, it counts too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.sizes import show_size
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.values import parse_field

ENV_PREFIX: Final = "LORAX_"

_SERVER: Final[Mapping[str, msgspec.structs.FieldInfo]] = MappingProxyType(
    {info.name: info for info in msgspec.structs.fields(ServerConfig)}
)
_ENGINE: Final[Mapping[str, msgspec.structs.FieldInfo]] = MappingProxyType(
    {info.name: info for info in msgspec.structs.fields(EngineConfig)}
)


@dataclass(frozen=True, kw_only=True)
class Option:
    flags: tuple[str, ...]
    name: str  # of the field
    help: str  # without default and environment names
    metavar: str = ""
    is_size: bool = False
    repeats: bool = False  # may be given more than once, which is a list with commas
    unset: str = ""  # what the default None means
    lorax_env: tuple[str, ...] = ()  # what LoRAX reads for the same thing

    @property
    def is_engine(self) -> bool:
        return self.name in _ENGINE and self.name not in _SERVER

    @property
    def field(self) -> msgspec.structs.FieldInfo:
        return _ENGINE[self.name] if self.is_engine else _SERVER[self.name]

    @property
    def env(self) -> tuple[str, ...]:
        """Environment names, the first one that is set counts."""
        own = ENV_PREFIX + self.flags[0].removeprefix("--").replace("-", "_").upper()
        return (own, *self.lorax_env)

    @property
    def is_switch(self) -> bool:
        return self.field.type is bool

    def parse(self, text: str) -> object:
        """Raises ValueError with what is expected instead."""
        return parse_field(text, self.field.type, is_size=self.is_size)

    @property
    def shown_default(self) -> str:
        default = self.field.default
        if default is None:
            return self.unset
        if self.is_size:
            return show_size(default)
        if isinstance(default, bool):
            return "on" if default else "off"
        if isinstance(default, float):
            return f"{default:g}"
        return str(default.value) if isinstance(default, Enum) else str(default)


@dataclass(frozen=True)
class Group:
    title: str
    options: tuple[Option, ...]
