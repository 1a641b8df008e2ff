"""Numbers of bytes as people read them; in messages of both processes."""


def show_size(num_bytes: int) -> str:
    """Four digits at most and a binary unit: "384 MiB", "1.4 GiB"."""
    value: float = num_bytes
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
