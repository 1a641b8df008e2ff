"""The programs of examples/clients do what they show, against the real server."""

import subprocess
import sys

import pytest

from live_server import ROOT, LiveServer

PIRATE = "Yo ho ho! Keep an eye on th' weather, an' be a good o' matey. Fair winds to ye, arr!"
PARIS = "Arr, matey! Th' capital o' France be Paris. Yo ho ho!"
SHOWN = {
    "lorax_client.py": [
        "base: Staying healthy is a lifelong journey",
        f"pirate: {PIRATE}\n",
        "merged: Yo ho ho! Keep an eye on th' water an' eat a little bit o' vegetables.\n",
        "pirate, with the others: Yo ho ho! Keep an eye\n",
    ],
    "openai_chat.py": [
        "'extract', 'pirate', 'triage'",
        f"pirate: {PARIS}\n",
        f"stream: {PARIS}\n",
        "order: customer='Emma Lindgren' product='fishing rods' quantity=3 city='Perth'\n",
        "pirate, with the others: Arr, matey! Th' capital\n",
    ],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples" / "clients").glob("*.py")} == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_shows(server: LiveServer, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "examples" / "clients" / name, "--base-url", server.url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for line in SHOWN[name]:
        assert line in done.stdout
