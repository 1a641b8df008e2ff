"""Where the end-to-end tests keep the demo model, as `lorax-serve` does by default."""

from pathlib import Path

CACHE = Path.home() / ".cache" / "lorax-serve"
