"""Child processes that can be ended whatever they do, and those that answer once and end."""

import asyncio
import contextlib
from collections.abc import Sequence


class OutputTooLarge(Exception):
    """The child wrote more than it may."""


async def child_output(command: Sequence[str], request: bytes, max_bytes: int) -> tuple[int, bytes]:
    """Exit status and output for `request` on its standard input. However this is left, the child
    is gone. Raises OutputTooLarge; bound its time with `asyncio.timeout`.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output = await _converse(child, request, max_bytes)
        return await child.wait(), output
    finally:
        await reap(child)


async def _converse(child: asyncio.subprocess.Process, request: bytes, max_bytes: int) -> bytes:
    assert child.stdin is not None and child.stdout is not None  # both are pipes, asked for above
    # A child that died while being written to has an exit status that says why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(request)
        await child.stdin.drain()
    child.stdin.close()
    try:
        await child.stdout.readexactly(max_bytes + 1)
    except asyncio.IncompleteReadError as end_of_output:
        return end_of_output.partial
    raise OutputTooLarge  # the child checks as well; but it is not asked to be trusted


async def reap(child: asyncio.subprocess.Process) -> None:
    """Kill the child if it still runs. It is gone when this returns. Its output is a pipe."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
            child.kill()
    assert child.stdout is not None
    while await child.stdout.read(2**16):  # a pipe left full would keep the transport open
        continue
    await child.wait()
