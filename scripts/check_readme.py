"""Runs the code blocks of README.md, in order, against the server that the README starts.

    .venv/bin/python -P scripts/check_readme.py [FILE]

Every fenced block marked `bash` or `python` runs; blocks of other languages are only read. A
comment on the line above a block's fence changes that:

    <!-- readme: server -->   starts a server: runs in the background until the last block is done;
                              the next block waits until http://127.0.0.1:8080/ready answers 200
    <!-- readme: skip -->     does not run (needs what this machine lacks, or runs elsewhere)

A block must exit 0, and curl counts an HTTP status from 400 up as a failure. Blocks run in a
scratch folder that links to everything in the checkout, so a file that one writes is there for the
next and gone at the end. At the end the server gets a Ctrl-C. Port 8080 must be free.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
READY_URL = "http://127.0.0.1:8080/ready"
START_SECONDS = 900.0  # installing included
BLOCK_SECONDS = 120.0
STOP_SECONDS = 60.0
SERVER, SKIP = "server", "skip"

BLOCK = re.compile(
    r"^(?:<!-- readme: (?P<mark>[a-z]+) -->\n)?```(?P<language>[a-z]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    line: int  # of the fence, from 1
    language: str
    code: str
    mark: str | None

    @property
    def command(self) -> list[str]:
        if self.language == "python":
            return [sys.executable, "-P", "-c", self.code]
        return ["bash", "-euo", "pipefail", "-c", self.code]


def blocks(text: str) -> list[Block]:
    """The blocks to run. Exits on a mark that means nothing."""
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        block = Block(line, match["language"], match["code"], match["mark"])
        if block.mark not in (None, SERVER, SKIP):
            sys.exit(f"line {line}: there is no mark {block.mark!r}")
        if block.language in ("bash", "python") and block.mark != SKIP:
            found.append(block)
    return found


@contextmanager
def scratch_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="readme-") as name:
        folder = Path(name)
        for entry in ROOT.iterdir():
            (folder / entry.name).symlink_to(entry)
        yield folder


@contextmanager
def server(block: Block, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """The block's server, ready. It must end with exit code 0 when interrupted."""
    process = subprocess.Popen(block.command, cwd=folder, env=environment, start_new_session=True)
    try:
        wait_until_ready(process)
        yield
    finally:
        stop(process)
    if process.returncode != 0:
        sys.exit(f"line {block.line}: the server ended with exit code {process.returncode}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C for the whole process group, as on a terminal; then the hard way."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            sys.exit(f"the server ended while starting, with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(READY_URL, timeout=5):
                return
        except OSError:  # nobody listens yet, or not ready: HTTPError is an OSError too
            time.sleep(0.1)
    sys.exit(f"the server was not ready within {START_SECONDS:.0f} s")


def port_is_taken() -> bool:
    try:
        with urllib.request.urlopen(READY_URL, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    print(f"README line {block.line}: {block.language}", flush=True)
    done = subprocess.run(block.command, cwd=folder, env=environment, timeout=BLOCK_SECONDS)
    print(flush=True)
    if done.returncode != 0:
        sys.exit(f"line {block.line}: exit code {done.returncode} from\n{block.code}")


def main(readme: Path) -> None:
    if port_is_taken():
        sys.exit(f"{READY_URL} answers already: stop what runs there")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    to_run = blocks(readme.read_text())
    with scratch_folder() as folder, ExitStack() as running:
        (folder / ".curlrc").write_text("fail-with-body\n")
        environment["CURL_HOME"] = str(folder)
        for block in to_run:
            if block.mark == SERVER:
                running.enter_context(server(block, folder, environment))
            else:
                run(block, folder, environment)
    print(f"{len(to_run)} blocks of {readme.name} ran.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "README.md")
