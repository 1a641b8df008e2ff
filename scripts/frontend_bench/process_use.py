"""What the system says processes have used."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessUse:
    cpu_seconds: float  # user and system, all threads
    resident_bytes: int

    @classmethod
    def of(cls, *pids: int) -> "ProcessUse":
        """All of them together."""
        uses = [cls._of_one(pid) for pid in pids]
        return cls(sum(use.cpu_seconds for use in uses), sum(use.resident_bytes for use in uses))

    @classmethod
    def _of_one(cls, pid: int) -> "ProcessUse":
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(
            cpu_seconds=(int(stat[11]) + int(stat[12])) / _TICKS_PER_SECOND,
            resident_bytes=resident_pages * os.sysconf("SC_PAGE_SIZE"),
        )
