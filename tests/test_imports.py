"""Every module imports alone, in a process of its own, and the frontend's without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("server", "engine", "ipc", "kernels", "grammar")
TORCH_FREE = ("server", "ipc")

# Modules that execute what they read, and doors to them (numpy.load takes pickles too).
EXECUTES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
EXECUTING_CALLS = {"recv_pyobj", "send_pyobj", "eval", "exec"}
EXECUTING_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("numpy", "load"), ("np", "load")}


# Imports a package that only builds on a machine with a GPU; tests/kernels/test_flash_attention.py.
NEEDS_FLASH_ATTN = ROOT / "kernels" / "flash_attention.py"


def modules(*folders: str) -> list[str]:
    return sorted(
        ".".join(("lorax_serve", *path.relative_to(ROOT).with_suffix("").parts))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and path != NEEDS_FLASH_ATTN
    )


# Each module in a fork of a process that has imported what others wrote, and nothing of ours: one
# new interpreter for each would take minutes.
IMPORT_EACH_ALONE = """
import importlib, os, sys, traceback, warnings
preloaded, forbidden, *names = sys.argv[1:]
for name in preloaded.split():
    importlib.import_module(name)
failed = []
for name in names:
    child = os.fork()
    if child == 0:
        warnings.simplefilter("error")
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        loaded = set(forbidden.split()) & set(sys.modules)
        if loaded:
            print(f"{name} imports {loaded}", file=sys.stderr)
        os._exit(1 if loaded else 0)
    if os.waitpid(child, 0)[1] != 0:
        failed.append(name)
sys.exit(", ".join(failed) or 0)
"""


def import_each_alone(folder: str, *, preloaded: str, forbidden: str) -> str:
    """What went wrong, as text."""
    names = modules(folder)
    assert names
    command = [sys.executable, "-P", "-c", IMPORT_EACH_ALONE, preloaded, forbidden, *names]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("folder", TORCH_FREE)
def test_each_frontend_module_imports_alone_and_without_torch(folder: str) -> None:
    failures = import_each_alone(
        folder,
        preloaded="aiohttp.web huggingface_hub.hf_api jinja2 msgspec structlog tokenizers tqdm zmq",
        forbidden="torch triton transformers outlines diskcache",
    )
    assert failures == ""


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name not in TORCH_FREE])
def test_each_other_module_imports_alone(folder: str) -> None:
    failures = import_each_alone(
        folder,
        preloaded="llguidance msgspec numpy outlines_core safetensors.torch structlog torch zmq",
        forbidden="aiohttp jinja2 outlines diskcache" if folder == "engine" else "outlines",
    )
    assert failures == ""


def test_an_engine_without_a_gpu_never_imports_triton() -> None:
    code = (
        "import sys\n"
        "import lorax_serve.engine.__main__, lorax_serve.engine.execution\n"
        "sys.exit('triton' in {name.partition('.')[0] for name in sys.modules})\n"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_a_running_engine_knows_no_text() -> None:
    """Ids in, ids out. Preparing the demo's files is a program of its own, with a tokenizer."""
    names = [name for name in modules("engine") if not name.endswith(".demo_conversion")]
    code = (
        "import importlib, sys\n"
        "[importlib.import_module(name) for name in sys.argv[1:]]\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(' '.join(loaded & {'tokenizers', 'transformers', 'jinja2', 'aiohttp'}) or 0)\n"
    )
    command = [sys.executable, "-P", "-c", code, "lorax_serve.engine.__main__", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_says_and_configures_nothing() -> None:
    code = (
        "import importlib, logging, sys\n"
        "[importlib.import_module(name) for name in sys.argv[1:]]\n"
        "sys.exit(repr(logging.getLogger().handlers) if logging.getLogger().handlers else 0)\n"
    )
    command = [sys.executable, "-P", "-c", code, *modules(*TORCH_FREE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle(path: Path) -> None:
    """Nothing that is shipped can execute what it reads."""
    assert violations(ast.parse(path.read_text())) == []


def violations(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [a.name for a in names if a.name.partition(".")[0] in EXECUTES]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in EXECUTES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in EXECUTING_CALLS | {"__import__"}:
                found.append(name)
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                if (owner, name) in EXECUTING_ATTRIBUTES or name in EXECUTING_CALLS - {"eval"}:
                    found.append(f"{owner}.{name}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as harmless",
        "from pickle import loads",
        "def f():\n    import marshal",
        "torch.load(path)",
        "socket.recv_pyobj()",
        "eval(text)",
        "np.load(path)",
    ],
)
def test_the_scan_finds_what_it_is_for(source: str) -> None:
    assert violations(ast.parse(source))
