from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wdsr_edge

ROOT = Path(__file__).resolve().parents[2]
ROOTS = (ROOT, ROOT / "export", ROOT / "calibration")
HEAVY = (
    *("torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "safetensors"),
    *("PIL", "typer", "click", "rich", "h5py", "pyvips"),
)

BLOCK = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
"""


def python(code: str, *arguments: object, block: tuple[str, ...] = ()) -> str:
    """What ``code`` prints in a fresh interpreter that sees the three packages but not those in ``block``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, ROOTS)), "PYTHONWARNINGS": "error"}
    blocking = BLOCK.format(names=set(block)) if block else ""
    done = subprocess.run(
        [sys.executable, "-c", blocking + code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


@pytest.mark.parametrize(
    "module",
    [
        "wdsr_edge",
        "wdsr_edge.config",
        "wdsr_edge.metrics",
        "wdsr_edge.images.resampler",
        "wdsr_edge.tiling",
        "wdsr_edge.backends",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = set(python(f"import {module}\n{LOADED}").split())
    assert module.partition(".")[0] in loaded
    assert not loaded & set(HEAVY)


def test_the_command_line_loads_no_engine_and_no_torch() -> None:
    loaded = set(python(f"import wdsr_edge.cli\n{LOADED}").split())
    assert not loaded & {"torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "safetensors"}


def test_importing_is_fast() -> None:
    """Next to numpy, which it needs: seconds alone would say how busy the machine is."""
    code = (
        "import time; start = time.process_time(); import numpy; middle = time.process_time(); import wdsr_edge; "
        "print((time.process_time() - middle) / (middle - start))"
    )
    assert min(float(python(code)) for _ in range(3)) < 2


DEVICE = """
import numpy, wdsr_edge
with wdsr_edge.load(sys.argv[1]) as sr:
    frame = numpy.zeros((5, 7, 3), numpy.uint8)
    print(sr(frame).shape, sr(frame.astype(numpy.float32)).shape, sr.submit(frame).result().shape)
import wdsr_edge.evaluation, wdsr_edge.images.samples, wdsr_edge.measuring.timing, wdsr_edge.cli
golden = wdsr_edge.Bundle.load(sys.argv[1]).golden()
assert golden[1].shape[0] == 2 * golden[0].shape[0]
assert not {"torch", "onnx", "onnx_ir", "safetensors"} & {name.partition(".")[0] for name in sys.modules}
"""


def test_a_device_needs_no_torch_and_no_onnx(good: Path) -> None:
    blocked = ("torch", "onnx", "onnx_ir", "safetensors")
    assert python(DEVICE, good, block=blocked) == "(10, 14, 3) (10, 14, 3) (10, 14, 3)"


MISSING = """
import wdsr_edge
try:
    import {module}
except wdsr_edge.MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "blocked", "extra"),
    [
        ("wdsr_edge.models", "torch", "train"),
        ("wdsr_edge.models", "safetensors", "train"),
        ("wdsr_edge.training", "torch", "train"),
        ("wdsr_calibration", "torch", "export"),
        ("wdsr_calibration", "onnx_ir", "export"),
        ("wdsr_export", "torch", "export"),
        ("wdsr_export", "onnx_ir", "export"),
        ("wdsr_export", "onnx", "export"),
    ],
)
def test_a_missing_package_names_its_extra(module: str, blocked: str, extra: str) -> None:
    text = python(MISSING.format(module=module), block=(blocked,))
    assert re.fullmatch(rf"\w+ cannot be imported \(.*\b{blocked}\b.*\): pip install 'wdsr-edge\[{extra}\]'", text), (
        text
    )


def test_a_missing_engine_names_its_extra(good: Path) -> None:
    code = """
import sys
sys.modules["onnxruntime"] = sys.modules["openvino"] = None  # as if they were not installed
import wdsr_edge
for backend in ("auto", "onnxruntime"):
    try:
        wdsr_edge.load(sys.argv[1], backend=backend)
    except wdsr_edge.WdsrError as error:
        print(error)
"""
    lines = python(code, good).splitlines()
    assert len(lines) == 2
    assert all("pip install 'wdsr-edge[onnxruntime]'" in line for line in lines)


def packages() -> list[Path]:
    tops = (ROOT / "wdsr_edge", ROOT / "export" / "wdsr_export", ROOT / "calibration" / "wdsr_calibration")
    return sorted(init for top in tops for init in top.rglob("__init__.py"))


def is_reexport(node: ast.stmt) -> bool:
    """A docstring, an import from inside the project, ``require(...)`` or ``__all__ = [...]``."""
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or (node.module or "").startswith("wdsr_")
    if isinstance(node, ast.Expr):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        return isinstance(node.value, ast.Constant) or (isinstance(called, ast.Name) and called.id == "require")
    target = (
        node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
    )
    return isinstance(target, ast.Name) and target.id == "__all__"


def in_order(name: str) -> tuple[int, str]:
    """The order that ruff's RUF022 keeps: constants, classes, the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("init", packages(), ids=lambda init: str(init.parent.relative_to(ROOT)))
def test_an_init_only_reexports_and_lists_it_all(init: Path) -> None:
    tree = ast.parse(init.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if len(tree.body) == 1:
        return  # a folder of modules, each of which is imported by its own name
    if init.parent == ROOT / "wdsr_edge":
        return  # see test_the_package_gives_what_it_lists
    assert [ast.unparse(node) for node in tree.body if not is_reexport(node)] == []
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    lists = [node.value for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    assert len(lists) == 1
    assert lists[0] is not None
    exported: list[str] = ast.literal_eval(lists[0])
    assert exported == sorted(set(exported), key=in_order)
    assert set(exported) == set(imported) - {"require"}


def test_the_package_gives_what_it_lists() -> None:
    """Some of it only when asked for, which a type checker must see all the same."""
    code = """
import wdsr_edge, sys
assert "numpy" not in sys.modules
assert set(wdsr_edge.__all__) <= set(dir(wdsr_edge))
found = {name: getattr(wdsr_edge, name) for name in wdsr_edge.__all__}
assert wdsr_edge.load is found["load"]
try:
    wdsr_edge.nothing
except AttributeError as error:
    print(error)
"""
    assert python(code) == "module 'wdsr_edge' has no attribute 'nothing'"
    tree = ast.parse((ROOT / "wdsr_edge" / "__init__.py").read_text(encoding="utf-8"))
    checked = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level for alias in node.names
    }
    assert checked == set(wdsr_edge.__all__)


def test_the_help_needs_no_numpy() -> None:
    code = """
import sys
from wdsr_edge.cli import main
sys.argv = ["wdsr-edge", "--help"]
try:
    main()
except SystemExit:
    assert "numpy" not in sys.modules and "wdsr_edge.backends" not in sys.modules
    print("end")
"""
    assert python(code).endswith("end")


def test_every_listed_name_is_there() -> None:
    folders = [init.parent.relative_to(ROOT).parts for init in packages() if "__all__" in init.read_text("utf-8")]
    modules = [".".join(parts[1:] if parts[0] in ("export", "calibration") else parts) for parts in folders]
    python("\n".join(f"from {module} import *" for module in modules))


def test_dependencies_point_one_way() -> None:
    """``wdsr_edge`` knows nothing of the packages above it, but for its command line."""
    above = {
        "wdsr_edge": ("wdsr_calibration", "wdsr_export"),
        "calibration/wdsr_calibration": ("wdsr_export",),
    }
    for folder, forbidden in above.items():
        for source in (ROOT / folder).rglob("*.py"):
            if "cli" in source.relative_to(ROOT / folder).parts[:1]:
                continue
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not [name for name in found if name.partition(".")[0] in forbidden], source


ROOMS = (
    *("_version", "_interrupt", "_errors", "_at_exit", "_exchange", "_files", "_calls"),
    *("config", "onnx_reader", "bundle", "frames", "tiling", "metrics", "tickets"),
    *("images", "data", "evaluation", "robustness"),
    *("backends", "machine", "choices", "chosen", "proof", "super_resolver"),
    *("loading", "existing", "measuring", "upscale_plan", "upscale", "doctor"),
    *("models", "training", "cli", "__main__", "__init__"),
)
"""Modules and folders of ``wdsr_edge``, the lowest first: each imports from those before it, and from no other."""


def imported_modules(source: Path) -> set[str]:
    """Names below ``wdsr_edge`` that a file of it imports, anywhere in it: modules, or what they hold."""
    package = source.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            found |= {".".join([*filter(None, base), alias.name]) for alias in node.names}
    return {name.removeprefix("wdsr_edge.") for name in found}


def sources() -> list[Path]:
    return sorted((ROOT / "wdsr_edge").rglob("*.py"))


def test_every_room_has_its_place() -> None:
    rooms = {source.relative_to(ROOT / "wdsr_edge").parts[0].removesuffix(".py") for source in sources()}
    assert rooms == {*ROOMS}
    assert len(ROOMS) == len({*ROOMS})


@pytest.mark.parametrize("source", sources(), ids=lambda source: str(source.relative_to(ROOT / "wdsr_edge")))
def test_imports_run_downwards(source: Path) -> None:
    room = source.relative_to(ROOT / "wdsr_edge").parts[0].removesuffix(".py")
    for name in imported_modules(source):
        other = name.partition(".")[0]
        if other in ROOMS and other != room:
            assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {name}"


@pytest.mark.parametrize("source", sources(), ids=lambda source: str(source.relative_to(ROOT / "wdsr_edge")))
def test_tensorrt_has_one_door(source: Path) -> None:
    """Outside ``backends``, only what its ``__init__`` gives is imported."""
    if "backends" in source.relative_to(ROOT / "wdsr_edge").parts:
        return
    deeper = {path.stem for path in (ROOT / "wdsr_edge" / "backends" / "tensorrt").glob("*.py")}
    for name in imported_modules(source):
        parts = name.split(".")
        assert parts[:2] != ["backends", "tensorrt"] or len(parts) < 3 or parts[2] not in deeper, name
