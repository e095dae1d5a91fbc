"""The rules of the house, read off the source with ``ast``: layers, homes of heavy libraries, sizes, habits."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import distilbatch

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "distilbatch"

# Imports point down: a unit may import units of lower layers only.
LAYERS = (
    {"errors"},
    {"oserrors", "records", "schema", "layout", "config", "fingerprint", "pipeline", "startup", "dated", "masking"},
    {"model", "inference", "tokenization", "tasks", "source", "shards", "sink", "commit"},
    {"engine", "train", "report", "bench", "interop", "demo"},
    {"cli"},
)
SIDEWAYS = {("inference", "model"), ("demo", "engine"), ("bench", "engine"), ("bench", "demo")} | {
    (a, b) for a in LAYERS[1] for b in LAYERS[1]
}

# Where a library may be imported; a folder ends in a slash.
HOMES = {
    "ray": ("engine/actors/", "interop/", "bench/peers/ray_data.py"),
    "tokenizers": ("tokenization/",),
    "safetensors": ("model/checkpoint.py",),
    "huggingface_hub": ("model/hub.py",),
    "torch": ("model/", "inference/", "train/", "bench/"),
    "yaml": ("config/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    # The oracle of the tests, and a peer that the benchmark measures in a process of its own: no part of what runs.
    "transformers": ("bench/peers/",),
    "onnxruntime": ("bench/peers/onnx_runtime.py",),
    "openvino": ("bench/peers/openvino.py",),
    "nncf": ("bench/peers/openvino.py",),
    "ctranslate2": ("bench/peers/ctranslate2.py",),
    "sentence_transformers": ("bench/peers/sentence_transformers.py",),
}
PRIVATE_TORCH = "inference/backends/operators.py"  # whose checks stand between a new release and wrong numbers
BROAD_EXCEPT = {
    "engine/": "a worker's death has many causes, and each must become a shard's failure",
    "bench/child.py": "whatever a library raises becomes a line of the report",
    "pipeline.py": "a pipeline file is the user's own program and may raise anything",
    "cli/": "the last resort, which turns a bug into exit code 1",
    "tokenization/tokenizer.py": "the library raises plain Exception for every malformed file",
}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 45  # of code: without docstring, comments and blank lines
LONGER_FILES = {"model/modeling.py": (500, "the whole model reads top to bottom in one file")}
LONGER_FUNCTIONS: dict[str, tuple[int, str]] = {}

MODULES = {path.relative_to(LIBRARY).as_posix(): path.read_text("utf-8") for path in sorted(LIBRARY.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in MODULES.items()}


def imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules a tree imports, each with the names taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)


def unit(module: str) -> str:
    """``distilbatch.model.packed`` and ``model/packed.py`` are both of unit ``model``."""
    return module.removeprefix("distilbatch.").replace("/", ".").removesuffix(".py").split(".")[0]


def layer(name: str) -> int:
    return next(i for i, units in enumerate(LAYERS) if name in units)


def at_home(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or (home.endswith("/") and name.startswith(home)) for home in homes)


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    own = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    if ast.get_docstring(node) is not None:
        own -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(1 for i in own if lines[i - 1].strip() and not lines[i - 1].strip().startswith("#"))


def test_every_module_says_what_it_is_for_in_one_to_six_lines():
    found = {name: ast.get_docstring(tree) for name, tree in TREES.items()}
    assert [name for name, text in found.items() if not text] == []
    # An indented table, as of commands or paths, does not count; the tree of errors is one too.
    prose = {
        name: [line for line in text.splitlines() if line[:1] not in " ├└│"] for name, text in found.items() if text
    }
    assert [name for name, lines in prose.items() if len([line for line in lines if line]) > 6] == []


def test_imports_point_down_the_layers():
    wrong = []
    for name, tree in TREES.items():
        for module, names in imports(tree):
            if name == "__init__.py" or module.split(".")[0] not in {"distilbatch", ""}:
                continue  # the root only declares the public names
            inner = [f"distilbatch.{n}" for n in names] if module == "distilbatch" else [module]
            for target in inner:
                a, b = unit(name), unit(target)
                if b in (a, "__version__") or (a, b) in SIDEWAYS:
                    continue
                if target.startswith(".") or layer(b) >= layer(a):
                    wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_each_heavy_library_has_one_home():
    wrong = [
        f"{name} imports {module}"
        for name, tree in TREES.items()
        for module, _ in imports(tree)
        if (homes := HOMES.get(module.split(".")[0])) is not None and not at_home(name, homes)
    ]
    assert wrong == []


def private_torch(name: str) -> bool:
    """Whether a dotted name is one that torch promises nothing about; ``torch.ops`` are registered, not documented."""
    root, *parts = name.split(".")
    return root == "torch" and any(part == "ops" or (part[:1] == "_" and part[:2] != "__") for part in parts)


def test_private_operators_of_torch_have_one_home():
    found = {
        (name, used)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and private_torch(used := ast.unparse(node))
        and used.replace(".", "").isidentifier()
    }
    found |= {
        (name, used)
        for name, tree in TREES.items()
        for module, names in imports(tree)
        for taken in ("", *names)
        if private_torch(used := f"{module}.{taken}")
    }
    assert {name for name, _ in found} == {PRIVATE_TORCH}, sorted(found)


def test_only_the_command_line_prints_or_exits():
    wrong = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if not name.startswith("cli/") and called in {"print", "exit", "quit", "sys.exit", "SystemExit"}:
                wrong.append(f"{name}:{node.lineno} {called}")
    assert wrong == []


def test_no_assert_and_no_except_that_swallows():
    wrong = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                wrong.append(f"{name}:{node.lineno} assert")
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                broad = {"Exception", "BaseException"} & set(caught.strip("()").split(", "))
                undoes = isinstance(last := node.body[-1], ast.Raise) and last.exc is None  # cleans up and re-raises
                if caught == "everything" or (broad and not undoes and not at_home(name, tuple(BROAD_EXCEPT))):
                    wrong.append(f"{name}:{node.lineno} except {caught}")
    assert wrong == []


def test_an_underscore_means_this_file_only():
    trees = TREES | {f"tests/{path.name}": ast.parse(path.read_text("utf-8")) for path in ROOT.glob("tests/**/*.py")}
    wrong = [
        f"{name} imports {imported} of {module}"
        for name, tree in trees.items()
        for module, names in imports(tree)
        if module.split(".")[0] == "distilbatch"
        for imported in names
        if imported.startswith("_") and imported != "__version__"
    ]
    assert wrong == []


def test_importing_a_module_runs_nothing():
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not name.startswith("cli/")
    ]
    assert calls == []


def test_files_and_functions_stay_short():
    wrong = []
    for name, text in MODULES.items():
        lines = text.splitlines()
        if len(lines) > LONGER_FILES.get(name, (MAX_FILE_LINES, ""))[0]:
            wrong.append(f"{name}: {len(lines)} lines")
        for node in ast.walk(TREES[name]):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                limit = LONGER_FUNCTIONS.get(f"{name}:{node.name}", (MAX_FUNCTION_LINES, ""))[0]
                if (count := code_lines(node, lines)) > limit:
                    wrong.append(f"{name}:{node.lineno} {node.name}: {count} lines")
    assert wrong == []


def test_pipelines_and_jobs_use_the_public_names_only():
    wrong = []
    for path in [*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("jobs/**/*.py")]:
        for module, names in imports(ast.parse(path.read_text("utf-8"))):
            private = module != "distilbatch" or set(names) - {*distilbatch.__all__}
            if module.split(".")[0] == "distilbatch" and private:
                wrong.append(f"{path.name} imports {names} of {module}")
    assert wrong == []


def test_importing_the_package_is_quick_and_loads_nothing_heavy():
    program = (
        "import json, sys, time; start = time.perf_counter(); import distilbatch; "
        "print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", program]
    runs = [json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout) for _ in range(5)]
    heavy = {"torch", "ray", "pyarrow", "pandas", "numpy", "tokenizers", "pydantic", "typer"}
    assert heavy & set(runs[0][1]) == set()
    assert min(seconds for seconds, _ in runs) < 0.3


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("mypy",)], ids=lambda command: command[0])
def test_linter_and_type_checker_are_content(command):
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: pip install -e '.[test]'")
    ran = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
