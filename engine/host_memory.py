"""How much memory the host still has to give, for this process and under its limits."""

from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """What the kernel would give without swapping, and the control group allows.

    The group is the one a container sees as its root; files of its page cache count as free.
    """
    return min([_of_machine(proc), *_of_group(cgroup)])


def _of_machine(proc: Path) -> int:
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo does not say how much memory is available")


def _of_group(cgroup: Path) -> list[int]:
    """Empty where nothing limits the group (version 2 files; the root group has none)."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        fields = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return []
    if limit == "max":
        return []
    reclaimable = int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
    return [max(0, int(limit) - used + reclaimable)]
