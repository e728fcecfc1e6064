"""The shape of the house, read from the source: which way imports point, and what may run on a device.

Promises: each layer imports only those to its right; the host knows only `device_agents.wire`; the agent is
standard library on Python 3.9 outside `runtimes/`; commands of the base install never reach torch.
"""

from __future__ import annotations

import ast
import builtins
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ofa_edge import shipped

REPOSITORY = Path(__file__).resolve().parent.parent

# Left imports right. Packages of one layer do not know each other; modules directly in ofa_edge/ are below all.
LAYERS = (
    {"cli"},
    {"deploy", "report"},
    {"search"},
    {"accuracy", "latency"},
    {"train"},
    {"supernet", "graph", "device"},
    {"weights"},
    {"space"},
)
RANK = {package: rank for rank, packages in enumerate(LAYERS) for package in packages}
BOTTOM = len(LAYERS)

# Where torch and the image libraries may be imported, and the commands that lead there.
TRAINING_PACKAGES = {"torch", "torchvision", "PIL", "pyarrow", "accelerate"}
TRAINING_COMMANDS = {"train", "training", "evaluate", "finetune", "supernet"}

# The lazy imports by which a base command reaches training code: given images (`export --data`, `select --data`), or
# asked to train (`predictor fit --kind mlp`).
WITH_IMAGES = {
    ("ofa_edge.accuracy.family", "ofa_edge.accuracy.mlp_training"),
    ("ofa_edge.cli.export_images", "ofa_edge.accuracy.compiled"),
    ("ofa_edge.cli.export_images", "ofa_edge.accuracy.recalibrate"),
    ("ofa_edge.cli.export_images", "ofa_edge.train.images"),
    ("ofa_edge.cli.images", "ofa_edge.train.images"),
    ("ofa_edge.cli.truth_measuring", "ofa_edge.accuracy.evaluate"),
    ("ofa_edge.cli.truth_measuring", "ofa_edge.train.images"),
    ("ofa_edge.preprocess", "PIL"),
    ("ofa_edge.cli.truth_ways", "ofa_edge.accuracy.compiled"),
}

# These names shadow the standard library for whatever runs with their folder first on sys.path.
FORBIDDEN_NAMES = {"select", "profile", "code"}

RUNTIMES = {"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime"}


class Import(NamedTuple):
    """One imported module: where it is written, and whether the import runs when the module is imported."""

    module: str
    line: int
    at_import: bool


class Source(NamedTuple):
    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        return parsed(self.path)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(package: str) -> list[Source]:
    """Every module below a top-level package."""
    found = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(name, path))
    return found


def imports(source: Source, modules: set[str]) -> Iterator[Import]:
    """Absolute names of all imports of a module, wherever they stand.

    Args:
        modules: known module names, which tell `from package import module` from `from module import name`.
    """
    package = source.name if source.path.name == "__init__.py" else source.name.rpartition(".")[0]
    waiting: list[tuple[ast.AST, bool]] = [(source.tree, True)]
    while waiting:
        node, at_import = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_type_checking(node):
            at_import = False
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            names = []
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.append(full if full in modules else base)
        else:
            waiting += [(child, at_import) for child in ast.iter_child_nodes(node)]
            continue
        for name in dict.fromkeys(names):
            yield Import(name, node.lineno, at_import)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def rank(module: str) -> int:
    """The layer of a module of ofa_edge; 0 is the leftmost."""
    parts = module.split(".")
    return RANK.get(parts[1], BOTTOM) if len(parts) > 1 else BOTTOM


def back_arrow(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, or None."""
    if not imported.startswith("ofa_edge"):
        return None
    here, there = rank(importer), rank(imported)
    if importer == "ofa_edge" and imported != "ofa_edge":
        return "ofa_edge/__init__.py imports nothing of ours, or every start pays for it"
    if there < here:
        return "points back"
    if there == here != BOTTOM and importer.split(".")[1] != imported.split(".")[1]:
        return "points sideways, within a layer"
    return None


HOST = sources("ofa_edge")
AGENT = sources("device_agents")
MODULES = {source.name for source in [*HOST, *AGENT]}


@functools.cache
def all_imports() -> dict[str, list[Import]]:
    return {source.name: list(imports(source, MODULES)) for source in [*HOST, *AGENT]}


def test_every_package_has_its_layer() -> None:
    packages = {source.name.split(".")[1] for source in HOST if source.name.count(".") >= 2}
    assert packages <= set(RANK)


def test_every_folder_with_code_is_a_package_and_so_in_the_wheel() -> None:
    folders = {source.path.parent for source in [*HOST, *AGENT]}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_the_shipped_tables_are_found() -> None:
    assert (shipped.tables() / "README.md").is_file()


def test_imports_point_one_way() -> None:
    wrong = [
        f"{source.path.relative_to(REPOSITORY)}:{found.line} {source.name} -> {found.module}: {reason}"
        for source in HOST
        for found in all_imports()[source.name]
        if (reason := back_arrow(source.name, found.module))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("ofa_edge.cli.app", "ofa_edge.deploy.run", True),
        ("ofa_edge.cli.app", "ofa_edge.errors", True),
        ("ofa_edge.search.exact.frontier", "ofa_edge.latency.models.model", True),
        ("ofa_edge.latency.models.model", "ofa_edge.latency.stats", True),
        ("ofa_edge.journal", "ofa_edge.strict_json", True),
        ("ofa_edge.latency.models.model", "ofa_edge.search.exact.frontier", False),
        ("ofa_edge.latency.models.model", "ofa_edge.accuracy.table", False),
        ("ofa_edge.graph.build", "ofa_edge.supernet.network", False),
        ("ofa_edge.errors", "ofa_edge.space.arch", False),
        ("ofa_edge.space.arch", "ofa_edge.cli.output", False),
        ("ofa_edge", "ofa_edge.errors", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert (back_arrow(importer, imported) is None) == allowed


def test_no_module_imports_itself_in_a_circle() -> None:
    """At import time; an import inside a function breaks a circle, but the layers still hold for it."""
    graph = {
        name: {i.module for i in found if i.at_import and i.module in MODULES} for name, found in all_imports().items()
    }
    for name, targets in graph.items():
        # A package's __init__ always runs before its modules; that is no circle.
        targets.difference_update(parent for parent in MODULES if name.startswith(parent + "."))
        targets.discard(name)
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert sorted(graph) == []


def test_the_host_knows_only_the_agents_wire() -> None:
    known = {
        found.module
        for source in HOST
        for found in all_imports()[source.name]
        if found.module.startswith("device_agents")
    }
    assert known <= {"device_agents.wire"}


def test_the_agent_imports_the_standard_library_and_runtimes_only_in_their_folder() -> None:
    standard = set(sys.stdlib_module_names) - {"tomllib"}  # tomllib came with 3.11
    wrong = []
    for source in AGENT:
        for found in all_imports()[source.name]:
            allowed = standard | {"device_agents"} | (RUNTIMES if ".runtimes" in source.name else set())
            if source.name == "device_agents.worker" and not found.at_import:
                allowed.add("numpy")  # where it already runs a runtime that needs it
            if found.module.split(".")[0] not in allowed:
                wrong.append(f"{source.name}:{found.line} {found.module}")
    assert wrong == []


def test_no_module_shadows_the_standard_library() -> None:
    assert [source.name for source in HOST if source.path.stem in FORBIDDEN_NAMES] == []
    # The agent's own folder can lead sys.path on a device, so there no name of the standard library will do.
    assert [source.name for source in AGENT if source.path.stem in sys.stdlib_module_names - {"__main__"}] == []


# -- the base install ---------------------------------------------------------------------------------------
def reachable(start: str) -> dict[str, str]:
    """Everything a module can come to import without images, lazily or not -> the module that does."""
    found: dict[str, str] = {start: start}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for imported in all_imports().get(name, []):
            if imported.module in found or (not imported.at_import and (name, imported.module) in WITH_IMAGES):
                continue
            found[imported.module] = name
            waiting.append(imported.module)
    return found


@pytest.mark.parametrize(
    "command",
    [
        source.name
        for source in HOST
        if source.name.startswith("ofa_edge.cli.") and source.path.stem not in TRAINING_COMMANDS
    ],
)
def test_base_commands_cannot_reach_torch(command: str) -> None:
    paths = {target: by for target, by in reachable(command).items() if target.split(".")[0] in TRAINING_PACKAGES}
    assert paths == {}


def test_torch_is_imported_only_where_training_lives() -> None:
    allowed = (
        "ofa_edge.supernet",
        "ofa_edge.train",
        "ofa_edge.accuracy.recalibrate",
        "ofa_edge.accuracy.mlp_training",
        "ofa_edge.weights.imports",
        "ofa_edge.preprocess",
        "ofa_edge.cli.train",
        "ofa_edge.cli.finetune",
        "ofa_edge.cli.supernet",
    )
    users = {
        source.name
        for source in HOST
        for found in all_imports()[source.name]
        if found.module.split(".")[0] in TRAINING_PACKAGES
    }
    assert [name for name in sorted(users) if not name.startswith(allowed)] == []


# -- Python 3.9 on devices -------------------------------------------------------------------------------------
NEWER_TYPING = {
    "TypeAlias", "ParamSpec", "Concatenate", "TypeGuard", "Self", "Never", "LiteralString", "assert_never",
    "assert_type", "reveal_type", "NotRequired", "Required", "Unpack", "TypeVarTuple", "dataclass_transform",
    "override",
}  # fmt: skip
NEWER_NAMES = {
    "pairwise", "bit_count", "aiter", "anext", "EncodingWarning", "orig_argv", "hardlink_to", "stdlib_module_names",
    "ExceptionGroup", "BaseExceptionGroup", "add_note", "file_digest", "chdir_context", "batched", "StrEnum", "UTC",
    "get_type_hints",
}  # fmt: skip
NEWER_KEYWORDS = {"dataclass": {"slots", "kw_only", "match_args"}, "zip": {"strict"}, "Popen": {"process_group"}}


def newer_than_39(tree: ast.Module) -> list[str]:
    """What in a module would not run on Python 3.9, as 'line: reason'. Names are checked by a list, not by type.

    `get_type_hints` is on it because it evaluates annotations such as `int | None`, which 3.9 cannot.
    """
    future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    # Without that import annotations are evaluated as all else is.
    annotations = {id(inner) for note in annotations_of(tree) if future for inner in ast.walk(note)}
    wrong = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom) and node.module in (
            "typing",
            "dataclasses",
            "itertools",
            "enum",
            "datetime",
        ):
            newer = {alias.name for alias in node.names} & (NEWER_TYPING | NEWER_NAMES | {"KW_ONLY"})
            wrong += [f"{line}: imports {name}" for name in sorted(newer)]
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in NEWER_NAMES:
                wrong.append(f"{line}: uses {name}")
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            used = {keyword.arg for keyword in node.keywords} & NEWER_KEYWORDS.get(name, set())
            wrong += [f"{line}: {name}({keyword}=)" for keyword in sorted(filter(None, used))]
        is_union = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in annotations
        if is_union and (is_type(node.left) or is_type(node.right)):  # type: ignore[attr-defined]
            wrong.append(f"{line}: evaluates the union {ast.unparse(node)}")
    return wrong


def annotations_of(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            yield node.annotation
        if isinstance(node, ast.arg) and node.annotation:
            yield node.annotation
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns:
            yield node.returns


def is_type(node: ast.expr) -> bool:
    """Whether an operand of `|` is a type by its looks: None, a builtin type, CamelCase or CamelCase[...]."""
    if isinstance(node, ast.Subscript):
        return is_type(node.value)
    if isinstance(node, ast.Constant):
        return node.value is None
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return isinstance(getattr(builtins, name, None), type) or (name[:1].isupper() and not name.isupper())


@pytest.mark.parametrize("source", AGENT, ids=lambda source: source.name)
def test_the_agent_is_python_39(source: Source) -> None:
    ast.parse(source.path.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert newer_than_39(source.tree) == []


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: int | None): ...",
        "A = int | None",
        "isinstance(x, str | bytes)",
        "from typing import Self",
        "zip(a, b, strict=True)",
        "@dataclasses.dataclass(frozen=True, slots=True)\nclass A: ...",
        "from itertools import pairwise",
        "n = mask.bit_count()",
        "hints = typing.get_type_hints(cls)",
    ],
)
def test_what_39_lacks_is_found(text: str) -> None:
    assert newer_than_39(ast.parse(text)) != []


def test_flags_and_annotations_are_no_unions() -> None:
    text = (
        "from __future__ import annotations\nx: int | None = os.O_CREAT | os.O_EXCL | flags\ndef f(y: str | None): ..."
    )
    assert newer_than_39(ast.parse(text)) == []


def python39() -> str | None:
    """A Python 3.9 that really runs: pyenv's shim does so only when told the version, and then names the real one."""
    found = shutil.which("python3.9")
    if found is None:
        return None
    code = "import sys; print(sys.executable if sys.version_info[:2] == (3, 9) else '')"
    environ = {**os.environ, "PYENV_VERSION": "3.9"}
    return subprocess.run([found, "-c", code], capture_output=True, text=True, env=environ).stdout.strip() or None


def test_a_real_python_39_imports_the_agent() -> None:
    interpreter = python39()
    if interpreter is None:
        pytest.skip("there is no Python 3.9 here")
    names = [s.name for s in AGENT if ".runtimes." not in s.name and not s.name.endswith("__main__")]
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    run = subprocess.run([interpreter, "-c", code, *names], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
