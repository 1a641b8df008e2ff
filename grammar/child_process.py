"""The end of a child process, however its user leaves it."""

import asyncio
import contextlib


async def reap(child: asyncio.subprocess.Process) -> None:
    """Kill the child if it still runs. It is gone when this returns. Its output is a pipe."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
            child.kill()
    assert child.stdout is not None
    while await child.stdout.read(2**16):  # a pipe left full would keep the transport open
        continue
    await child.wait()
