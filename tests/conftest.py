"""What several tests share: a tiny tokenizer and tiny random Llama models, built in a second."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documented import unexplained
from preferences import rows
from tiny import build_tiny_tokenizer, tiny_config

# Two test processes on two cores: torch's own threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "a test skipped for a reason that this regular expression does not match is a failure"
    parser.addoption("--allow-skips", metavar="REGEX", help=help)


def unexpected_skips(config: pytest.Config) -> list[str]:
    """Tests and reasons of the skips that --allow-skips forbids."""
    allowed = config.getoption("--allow-skips")
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if allowed is None or terminal is None:
        return []
    reports = terminal.stats.get("skipped", [])
    told = {f"{r.nodeid}: {r.longrepr[2]}" for r in reports if not hasattr(r, "wasxfail")}
    return sorted(line for line in told if not re.search(allowed, line.split(": ", 1)[1]))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under xdist this runs in the workers too, which have no terminal."""
    if session.exitstatus == 0 and unexpected_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if found := unexpected_skips(config):
        terminalreporter.section("skipped, although --allow-skips does not name the reason")
        for line in found:
            terminalreporter.line(line, red=True)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """See `build_tiny_tokenizer`."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama for causal language modelling and its tokenizer."""
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reward_dir(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama with one score per text, and its tokenizer."""
    import torch
    from transformers import LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny_reward")
    torch.manual_seed(1)
    config = tiny_config(tiny_tokenizer, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def preference_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl (16 rows) and test.jsonl (5 rows)."""
    folder = tmp_path_factory.mktemp("preferences")
    for name, part in (("train", rows(16)), ("test", rows(5, first=100))):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture
def settings(preference_dir: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes the flags of a short run; keyword arguments override them."""

    def make(**flags: Any) -> dict[str, Any]:
        return {
            "data_path": [str(preference_dir)],
            "data_output_path": str(preference_dir / "prepared"),
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 4,
            "max_seq_len": 64,
            "learning_rate": 1e-2,
            **flags,
        }

    return make


@pytest.fixture
def read_metrics() -> Callable[[str | Path], list[dict[str, Any]]]:
    """Reads a run's metrics.jsonl without the times in it."""

    def read(output_dir: str | Path) -> list[dict[str, Any]]:
        lines = (Path(output_dir) / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert not unexplained(found), "docs/metrics.md does not explain these fields"
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found]

    return read


@pytest.fixture(scope="session")
def dpo_models(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three random models of one vocabulary; `wide` has 16 rows of padding in its output layer."""
    from dpo_fixtures import save_model

    folder = tmp_path_factory.mktemp("references")
    padded = len(tiny_tokenizer) + 16
    made = {
        "a": save_model(folder / "a", tiny_tokenizer, seed=0),
        "b": save_model(folder / "b", tiny_tokenizer, seed=1),
        "wide": save_model(folder / "wide", tiny_tokenizer, seed=2, vocab_size=padded),
    }
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def dpo_settings(preference_dir: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes the flags of a short run; keyword arguments override them."""

    def make(**flags: Any) -> dict[str, Any]:
        return {
            "dataset": str(preference_dir),
            "data_output_path": str(preference_dir / "prepared"),
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 3,
            "max_length": 64,
            "learning_rate": 1e-3,
            "seed": 1,
            **flags,
        }

    return make
