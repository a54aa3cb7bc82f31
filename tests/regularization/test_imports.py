"""The layer stands alone: torch, numpy for its files, the standard library, Triton in one file."""

import ast
import sys
from pathlib import Path

import dschat.regularization

TOOLS = {"dschat.errors", "matplotlib", "safetensors", "transformers"}
ALLOWED = {"torch", "numpy", *sys.stdlib_module_names}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module


def test_regularization_imports_only_itself_torch_and_numpy():
    folder = Path(dschat.regularization.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 5
    for path in files:
        for module in imported_modules(path):
            own = module.startswith("dschat.regularization")
            kernel = path.name == "sinkhorn_triton.py" and module.split(".")[0] == "triton"
            # A command beside the layer, which nothing imports.
            tool = path.name == "inspect_metric.py" and module in TOOLS
            allowed = own or kernel or tool or module.split(".")[0] in ALLOWED
            assert allowed, f"{path.name} imports {module}"
