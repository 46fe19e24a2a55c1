"""The rules that keep the folders apart, read from the source of every file.

A check takes {path: source} and returns what breaks its rule. Each is run on the repository and on
small sources that must fail.
"""

import ast
import functools
import importlib.metadata
import itertools
import pathlib
import sys

import pytest
from conftest import ROOT

# What each may import of ours besides itself; a module's name allows that module alone.
ARROWS = {
    "train": ["assemble", "recipes", "training", "models", "input_pipeline"],
    "assemble": ["recipes", "training", "models", "input_pipeline"],
    "end_to_end": None,  # everything
    "tools": ["recipes", "training", "models", "input_pipeline", "assemble"],
    "training": ["models", "input_pipeline"],
    "detection": ["models", "input_pipeline", "training", "export.images"],
    "tfrecords_tools": ["input_pipeline.schema", "input_pipeline.records", "retrieval"],
    "export": ["recipes", "models", "input_pipeline", "retrieval.embeddings"],
    "eval": ["retrieval", "recipes"],
    "recipes": [],
    "models": [],
    "input_pipeline": [],
    "retrieval": [],
    "demo": [],
    "columns": [],
    "files": [],
    "jobs": [],
    "named_calls": [],
    "progress": [],
    "tensorflow_wheels": [],
}
# Tables, paths, work on all cores, calls as text, rate and time left, TensorFlow's wheels.
EVERYWHERE = ["columns", "files", "jobs", "named_calls", "progress", "tensorflow_wheels"]
NOT_IMPORTED = ("tests", "benchmarks", "notebooks", "docs")
# tensorflow_datasets, keras_cv, tf_keras and efficientnet load TensorFlow themselves.
LOADS_TENSORFLOW = ("tensorflow", "keras", "tf_keras", "efficientnet")
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}
GUARD = """if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])"""
LONGEST_FUNCTION, LONGEST_FILE = 45, 400


def repository():
    """Every Python file of the checkout, as {path relative to it: source}."""
    folders = [f for f in ROOT.iterdir() if f.is_dir() and f.name[0] != "." and f.name != "runs"]
    files = itertools.chain(ROOT.glob("*.py"), *(folder.rglob("*.py") for folder in folders))
    return {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in sorted(files)}


@functools.cache
def parse(source):
    return ast.parse(source)


def module_of(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def top(name):
    return name.split(".")[0]


def within(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def imports(path, source, modules=frozenset()):
    """Yields (line, module imported), wherever it stands; `from a import b` is a.b if a module."""
    package = (
        module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    )
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in modules else base
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def product(sources):
    return {p: s for p, s in sources.items() if p.split("/")[0].removesuffix(".py") in ARROWS}


def arrows(sources):
    """Imports of ours go along ARROWS."""
    modules = frozenset(map(module_of, sources))
    for path, source in product(sources).items():
        own = top(module_of(path))
        allowed = [own, *EVERYWHERE, *(ARROWS if ARROWS[own] is None else ARROWS[own])]
        for line, name in imports(path, source, modules):
            ours = top(name) in (*ARROWS, *NOT_IMPORTED)
            if ours and not any(within(name, prefix) for prefix in allowed):
                yield f"{path}:{line} imports {name}"


def no_cycle(sources):
    """No module imports itself over others, inside functions neither."""
    modules = frozenset(map(module_of, sources))
    graph = {
        module_of(path): {
            name for _, name in imports(path, source, modules) if name in modules
        } - {module_of(path)}
        for path, source in sources.items()
    }  # fmt: skip
    while leaves := [module for module, targets in graph.items() if not targets & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    # What is left lies on a cycle or imports one.
    for module in graph:
        yield f"{module} imports {', '.join(sorted(graph[module] & graph.keys()))} in a cycle"


def known_places(sources):
    """Every file is a known script or in a known folder: a new one needs its arrows here."""
    for path in sources:
        if top(module_of(path)) not in (*ARROWS, *NOT_IMPORTED):
            yield f"{path} has no arrows"


@functools.cache
def foreign_modules():
    ours = {"waymark"}
    installed = importlib.metadata.packages_distributions().items()
    return set(sys.stdlib_module_names) | {n for n, dists in installed if not set(dists) <= ours}


def own_names(sources):
    """No file or folder is named after a module of Python or of a dependency."""
    for path in sources:
        for name in pathlib.PurePosixPath(path).with_suffix("").parts:
            if name in foreign_modules() and name not in ("__init__", "__main__"):
                yield f"{path} hides the module {name}"


def no_import_eval(sources):
    """`from eval import x`, never `import eval`, which hides the builtin."""
    for path, source in sources.items():
        for node in ast.walk(parse(source)):
            if isinstance(node, ast.Import):
                wrong = [alias.name for alias in node.names if top(alias.name) == "eval"]
                yield from (f"{path}:{node.lineno} import {name}" for name in wrong)


def guarded_scripts(sources):
    """A script in a folder replaces the first path entry before it imports ours."""
    for path, source in product(sources).items():
        body = parse(source).body
        texts = [ast.unparse(node) for node in body]
        main = [text for text in texts if text.startswith("if __name__ == '__main__'")]
        if "/" not in path or not main:
            continue
        ours = [
            i for i, node in enumerate(body)
            if isinstance(node, ast.ImportFrom) and top(node.module or "") in ARROWS
        ]  # fmt: skip
        guards = [i for i, text in enumerate(texts) if text.startswith(GUARD)]
        if not guards or any(i < guards[0] for i in ours):
            yield f"{path} lacks the __package__ guard before its imports of ours"


def short(sources):
    """Functions of at most 45 lines without docstring, files of at most 400."""
    for path, source in sources.items():
        if (lines := len(source.splitlines())) > LONGEST_FILE:
            yield f"{path} has {lines} lines"
        for node in ast.walk(parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                if lines > LONGEST_FUNCTION:
                    yield f"{path}:{node.lineno} {node.name} has {lines} lines"


def without_tensorflow(sources):
    """retrieval and eval import neither TensorFlow nor Keras; models imports Keras alone."""
    for path, source in sources.items():
        folder = path.split("/")[0]
        if folder in ("retrieval", "eval"):
            forbidden = LOADS_TENSORFLOW
        elif folder == "models":
            forbidden = ("tensorflow", "tf_keras")
        else:
            continue
        for line, name in imports(path, source):
            if top(name).startswith(forbidden):
                yield f"{path}:{line} imports {name}"


def lazy_scann(sources):
    """scann loads TensorFlow if it can: it stays inside functions of approximate.py."""
    for path, source in product(sources).items():
        functions = [n for n in ast.walk(parse(source)) if isinstance(n, ast.FunctionDef)]
        lazy = {line for f in functions for line in range(f.lineno, f.end_lineno + 1)}
        for line, name in imports(path, source):
            allowed = path == "retrieval/nearest/approximate.py" and line in lazy
            if top(name) == "scann" and not allowed:
                yield f"{path}:{line} imports scann"


def recipes_are_data(sources):
    """recipes imports the standard library only, and what reads a call from a text."""
    for path, source in sources.items():
        if path.startswith("recipes/"):
            for line, name in imports(path, source):
                if top(name) not in {*sys.stdlib_module_names, "recipes", "named_calls"}:
                    yield f"{path}:{line} imports {name}"


def no_pickle(sources):
    """Nothing reads or writes pickles, which run code."""
    for path, source in sources.items():
        for line, name in imports(path, source):
            if top(name) in PICKLES:
                yield f"{path}:{line} imports {name}"
        for node in ast.walk(parse(source)):
            allows = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
            if allows and ast.unparse(node.value) != "False":
                yield f"{path}:{node.lineno} allow_pickle={ast.unparse(node.value)}"


CHECKS = [
    arrows, no_cycle, known_places, own_names, no_import_eval, guarded_scripts, short,
    without_tensorflow, lazy_scann, recipes_are_data, no_pickle,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_repository(check):
    assert list(check(repository())) == []


def test_repository_is_seen():
    paths = repository()
    assert {"retrieval/search.py", "eval/gap.py", "tests/test_architecture.py"} <= paths.keys()


MAIN = "\nif __name__ == '__main__':\n    main()\n"
LONG = "def f():\n" + "    x = 1\n" * 45
BAD = [
    (arrows, {"models/a.py": "import recipes"}),
    (arrows, {"models/a.py": "def f():\n    from training import trainer"}),
    (arrows, {"retrieval/a.py": "import importlib\nimportlib.import_module('eval.gap')"}),
    (
        arrows,
        {"tfrecords_tools/a.py": "from input_pipeline import ops", "input_pipeline/ops.py": ""},
    ),
    (arrows, {"tfrecords_tools/a.py": "from input_pipeline import x"}),
    (arrows, {"export/a.py": "from retrieval.nearest.exact import ExactSearcher"}),
    (arrows, {"demo/a.py": "from tests import conftest"}),
    (arrows, {"train.py": "import eval.gap"}),
    (no_cycle, {"models/a.py": "from models import b", "models/b.py": "import models.a"}),
    (no_cycle, {"models/a.py": "def f():\n    from . import b", "models/b.py": "from .a import x"}),
    (no_cycle, {"a.py": "import b", "b.py": "import c", "c.py": "import a"}),
    (no_cycle, {"models/__init__.py": "from models.a import x", "models/a.py": "import models"}),
    (known_places, {"serve/page.py": ""}),
    (known_places, {"helpers.py": ""}),
    (own_names, {"eval/scann.py": ""}),
    (own_names, {"training/types.py": ""}),
    (own_names, {"keras/layers.py": ""}),
    (no_import_eval, {"train.py": "import eval"}),
    (no_import_eval, {"tests/test_a.py": "def f():\n    import os, eval.gap as g"}),
    (guarded_scripts, {"eval/a.py": "import sys" + MAIN}),
    (guarded_scripts, {"eval/a.py": GUARD.replace("[0]", "[1]") + MAIN}),
    (guarded_scripts, {"eval/a.py": "from eval import gap\n" + GUARD + MAIN}),
    (short, {"models/a.py": LONG}),
    (
        short,
        {"models/a.py": "class A:\n" + LONG.replace("    x", "        x").replace("def", "  def")},
    ),
    (short, {"models/a.py": "x = 1\n" * 401}),
    (without_tensorflow, {"eval/a.py": "def f():\n    import tensorflow as tf"}),
    (without_tensorflow, {"retrieval/a.py": "from keras import ops"}),
    (without_tensorflow, {"retrieval/a.py": "import tensorflow_datasets"}),
    (without_tensorflow, {"models/heads.py": "import tensorflow as tf"}),
    (lazy_scann, {"retrieval/nearest/approximate.py": "import scann"}),
    (lazy_scann, {"eval/gap.py": "def f():\n    import scann"}),
    (recipes_are_data, {"recipes/a.py": "import numpy as np"}),
    (no_pickle, {"training/a.py": "import pickle"}),
    (no_pickle, {"training/a.py": "from joblib import dump"}),
    (no_pickle, {"training/a.py": "np.load(path, allow_pickle=True)"}),
    (no_pickle, {"training/a.py": "np.load(path, allow_pickle=anything)"}),
]


@pytest.mark.parametrize(("check", "sources"), BAD)
def test_every_check_can_fail(check, sources):
    assert list(check(sources)) != []


def test_every_check_has_a_failing_source():
    assert {check for check, _ in BAD} == set(CHECKS)


GOOD = {
    "train.py": "from recipes import tiny\nfrom training import trainer" + MAIN,
    "tfrecords_tools/write.py": "import sys\n"
    + GUARD
    + "\nfrom input_pipeline import schema"
    + MAIN,
    "input_pipeline/schema.py": "import tensorflow as tf\nfrom . import ops",
    "input_pipeline/ops.py": "from .class_weights import x",
    "input_pipeline/class_weights.py": "",
    "models/__init__.py": "from models.heads import Head",
    "models/heads.py": "import keras\nfrom models import pooling",
    "models/pooling.py": "def f():\n"
    + '    """Doc.\n'
    + "\n" * 40
    + '    """\n'
    + "    x = 1\n" * 44,
    "export/embed.py": "from retrieval.embeddings import EmbeddingsWriter",
    "retrieval/embeddings.py": "np.load(path, allow_pickle=False)",
    "retrieval/nearest/approximate.py": "def f():\n    import scann",
    "eval/gap.py": "from eval import metrics\nfrom retrieval import embeddings",
    "eval/metrics.py": "",
    "recipes/tiny.py": "import dataclasses\nfrom recipes.schema import Model",
    "recipes/schema.py": "",
    "tests/test_a.py": "from eval import gap\nimport tensorflow" + MAIN,
}


@pytest.mark.parametrize("check", CHECKS)
def test_right_sources_pass(check):
    assert list(check(GOOD)) == []
