"""A process of ours: started, watched and ended here, and never left behind.

What it is to do is the first line on its standard input. The pipe then stays open: its end tells
the child that this process is gone, however that came about.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import lorax_serve
from lorax_serve.server.errors import StartError

TERM_SECONDS: Final = 5.0  # between SIGTERM and SIGKILL


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, so that a child of ours can import this same package."""
    kept = dict(environ)
    root = Path(lorax_serve.__file__).absolute().parents[1]
    # An installed package is found anyway; naming its folder would put it before the standard
    # library, which other packages there must not shadow.
    if root.name not in ("site-packages", "dist-packages"):
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environ.get("PYTHONPATH")]))
    return kept


class ChildProcess:
    """A running one. Whoever makes one must `stop` it, on the same event loop."""

    def __init__(
        self,
        name: str,
        first_line: bytes,
        environment: Mapping[str, str],
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        stdout: int | None = None,
    ) -> None:
        """Starts `command`; `name` is for messages. Raises StartError when the system cannot."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        try:
            with _interrupts_blocked():
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    env=environment,
                    bufsize=0,
                    pass_fds=pass_fds,
                )
        except OSError as error:
            raise StartError(f"The {name} process cannot be started: {error}.") from error
        threading.Thread(
            target=self._watch, args=(loop,), name=f"{name}-watch", daemon=True
        ).start()
        assert self._process.stdin is not None, "stdin is a pipe"
        self._stdin = self._process.stdin
        self.send(first_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """For who started it with a pipe there."""
        assert self._process.stdout is not None, "stdout is not a pipe"
        return self._process.stdout

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def send(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and `wait` says so
            self._stdin.write(line + b"\n")

    async def wait(self) -> str:
        """Wait until the process has ended; how it did, in words that follow its name."""
        return describe_exit(await asyncio.shield(self._ended))

    async def stop(self, insisted: asyncio.Event) -> None:
        """End the process if it still runs: its input closes, SIGTERM, and at last SIGKILL.

        SIGKILL comes after TERM_SECONDS, or as soon as `insisted` is set. Returns when the process
        is gone, also when cancelled meanwhile.
        """
        self._stdin.close()
        self._process.terminate()
        hurry = asyncio.ensure_future(insisted.wait())
        try:
            await asyncio.wait(
                (self._ended, hurry), timeout=TERM_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurry.cancel()
            self._process.kill()  # does nothing to a process that has ended
            await self._ended

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        returncode = self._process.wait()
        loop.call_soon_threadsafe(self._ended.set_result, returncode)


def describe_exit(returncode: int) -> str:
    """A returncode in words: "was killed by SIGKILL", "ended with exit code 1"."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches the whole process group. A child born here does not get it, from its first
    instruction on; in this process a SIGINT is only held back until the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
