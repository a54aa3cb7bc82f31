"""No code of the project can run what a checkpoint or a data file says: read from its syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import ROOT

FOLDERS = ("applications", "inference", "evaluation", "scripts", "benchmarks")
# Programs that models have written are run here, and nowhere else: in a sandbox, by a child of
# the training process. Its requests come from the parent, in the marshal format.
SANDBOX = "rewards/code/runner.py"
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "runpy.run_path",
    "runpy.run_module",
    "torch.jit.load",
    "torch.hub.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
}
# (file, what): why it is no danger.
ALLOWED = {
    (SANDBOX, "exec"): "the sandbox",
    (SANDBOX, "compile"): "the sandbox",
    (SANDBOX, "__import__"): "the sandbox",
    (SANDBOX, "import marshal"): "requests of the parent",
    ("rewards/code/process.py", "import marshal"): "it only writes with it",
    ("models/score_reading.py", "import pickle"): "the name of an exception",
    ("checkpoint/engine_checkpoint.py", "import pickle"): "the name of an exception",
    ("checkpoint/engine_checkpoint.py", "load_checkpoint"): "its reader is replaced",
}
# Calls that need a setting: the last part of the name -> the setting.
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    ".from_pretrained": ("trust_remote_code", False),
    ".from_config": ("trust_remote_code", False),
}


def findings(source: str) -> Iterator[str]:
    """What could run foreign code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            yield from (f"import {n}" for n in names if n and n.split(".")[0] in PICKLES)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN:
            yield ast.unparse(node)  # also where it is only handed on
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in FORBIDDEN:
            yield node.id
        if isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {k.arg: k.value for k in call.keywords}
    if name.endswith(".load_checkpoint"):
        yield "load_checkpoint"
    for known, (setting, value) in NEEDED.items():
        is_it = name.endswith(known) if known.startswith(".") else name == known
        found = given.get(setting)
        if is_it and not (isinstance(found, ast.Constant) and found.value is value):
            yield f"{name} without {setting}={value}"
    if "shell" in given and not _is(given["shell"], False):
        yield "shell"
    if "trust_remote_code" in given and not _is(given["trust_remote_code"], False):
        yield "trust_remote_code"
    if "weights_only" in given and not _is(given["weights_only"], True):
        yield "weights_only"


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_nothing_runs_what_a_file_says() -> None:
    files = sources()
    assert len(files) > 100
    found = []
    for path in files:
        short = str(path).split("/dschat/", 1)[-1]
        # Benchmarks make their models themselves.
        is_benchmark = path.is_relative_to(ROOT / "benchmarks")
        for what in findings(path.read_text(encoding="utf-8")):
            if (short, what) in ALLOWED or (is_benchmark and ".from_" in what):
                continue
            found.append(f"{path.relative_to(ROOT)}: {what}")
    assert not found


def test_what_is_allowed_is_still_there() -> None:
    """A leftover permission would hide something new."""
    package = ROOT / "applications" / "DeepSpeed-Chat" / "dschat"
    for name, what in ALLOWED:
        assert what in set(findings((package / name).read_text(encoding="utf-8"))), (name, what)
        if what == "import pickle":
            lines = (package / name).read_text(encoding="utf-8").splitlines()
            used = [line.split("pickle.")[1] for line in lines if "pickle." in line]
            assert all(rest.startswith("UnpicklingError") for rest in used), name


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "load(path, weights_only=False)",
        "import pickle",
        "import joblib.memory",
        "from cloudpickle import loads",
        "eval(text)",
        "list(map(eval, texts))",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "os.system(line)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=config.trust)",
        "AutoModel.from_config(config)",
        "pipeline(path, trust_remote_code=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(line, shell=True)",
        "engine.load_checkpoint(folder)",
    ],
)
def test_the_reader_sees_it(line: str) -> None:
    assert list(findings(line))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "model.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "json.loads(text)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)",
    ],
)
def test_the_reader_lets_pass(line: str) -> None:
    assert not list(findings(line))
