"""Which blocks of a README are run, and how a README that is wrong is found out."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def check_readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "check_readme", ROOT / "scripts" / "check_readme.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.port_is_taken = lambda: False  # type: ignore[attr-defined]  # no server is started here
    return module


README = """\
# Title

<!-- readme: server -->
```bash
scripts/serve
```

```
a picture
```

```python
print("one")
```

<!-- readme: skip -->
```bash
rm -rf /
```

```json
{"not": "run"}
```

```bash
touch made-by-a-block
test -e pyproject.toml
```
"""


def test_blocks_are_found_with_their_marks_and_lines(check_readme: ModuleType) -> None:
    assert [(b.line, b.language, b.mark) for b in check_readme.blocks(README)] == [
        (4, "bash", "server"),
        (12, "python", None),
        (25, "bash", None),
    ]


def test_an_unknown_mark_is_an_error(check_readme: ModuleType) -> None:
    with pytest.raises(SystemExit, match="line 2: there is no mark 'sever'"):
        check_readme.blocks("<!-- readme: sever -->\n```bash\nscripts/serve\n```\n")


def test_blocks_run_in_a_folder_of_their_own(
    check_readme: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README.replace("<!-- readme: server -->", "<!-- readme: skip -->"))
    check_readme.main(readme)
    assert "2 blocks of README.md ran." in capfd.readouterr().out
    assert not (ROOT / "made-by-a-block").exists()


@pytest.mark.parametrize("code", ["false", "false | true", "echo $no_such_variable"])
def test_a_block_that_fails_fails_the_check(
    check_readme: ModuleType, tmp_path: Path, code: str
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"```bash\n{code}\n```\n")
    with pytest.raises(SystemExit, match="line 1: exit code"):
        check_readme.main(readme)


def test_every_mark_of_the_real_readme_means_something(check_readme: ModuleType) -> None:
    assert check_readme.blocks((ROOT / "README.md").read_text())
