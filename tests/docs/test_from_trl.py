"""The script of docs/from_trl.md, and TRL's own script with the page's two lines changed."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from launch import ROOT, run_script

PAGE = (ROOT / "docs/from_trl.md").read_text(encoding="utf-8")


def prompts_file(folder: Path) -> Path:
    path = folder / "prompts.jsonl"
    rows = [{"prompt": f"What about the {word}?"} for word in ("tea", "fox", "egg", "dog")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def logged(text: str, name: str) -> list[float]:
    return [float(x) for x in re.findall(rf"'{name}': '?(-?[\d.e-]+)", text)]


def test_the_pages_script(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = re.findall(
        r"`my_trl_grpo.py`, complete:\n\n```python\n(.*?)^```", PAGE, re.M | re.S
    )
    script = tmp_path / "my_trl_grpo.py"
    script.write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = run_script(script, [tiny_model_dir, prompts_file(tmp_path), 2])
    assert done.returncode == 0, done.stderr[-2000:]
    found = logged(done.stdout, "divergence")
    assert len(found) == 2
    assert found[0] == pytest.approx(0, abs=1e-6)


def test_trls_own_script_with_two_lines_changed(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl.scripts.grpo

    source = inspect.getsource(trl.scripts.grpo)
    for old, new in (
        ("    from trl import GRPOTrainer, get_dataset", "    from trl import get_dataset"),
        (
            "    trainer = GRPOTrainer(",
            "    from dschat.integrations.trl import RegularizedGRPOTrainer\n"
            '    trainer = RegularizedGRPOTrainer(regularizer="kl", coefficient=0.1,',
        ),
    ):
        assert source.count(old) == 1
        source = source.replace(old, new)
    (tmp_path / "grpo.py").write_text(source, encoding="utf-8")
    (tmp_path / "brief.py").write_text(
        "def reward(completions, **columns):\n    return [float(len(c)) for c in completions]\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    flags: dict[str, Any] = {
        "model_name_or_path": tiny_model_dir,
        "dataset_name": prompts_file(tmp_path).parent,
        "reward_funcs": "brief.reward",
        "output_dir": tmp_path / "out",
        "max_steps": 1,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 8,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "dtype": "float32",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    done = run_script(tmp_path / "grpo.py", words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert logged(done.stdout, "divergence") == [pytest.approx(0, abs=1e-6)]
    assert (tmp_path / "out/model.safetensors").is_file()
