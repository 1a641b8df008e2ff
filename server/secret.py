"""A credential that shows itself only to who asks for it by name."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Secret:
    """Prints as Secret(), in logs and errors too."""

    revealed: str = field(repr=False)
