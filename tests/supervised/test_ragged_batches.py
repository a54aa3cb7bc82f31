"""An optimiser step is one batch, however its rows are cut into micro-batches and shared out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_fixtures import command_line
from dschat.supervised.batches import RankBatches
from dschat.supervised.trainer import CheckedEngine
from launch import DPO, STEP1, STEP2, run_script
from preferences import rows
from safetensors.torch import load_file
from step_fixtures import run_step

STEPS = ("sft", "reward", "dpo")
SCRIPTS = {"sft": STEP1, "reward": STEP2, "dpo": DPO}


class Rows:
    """A data set of a few pairs, and the flags of one optimiser step over all of them."""

    def __init__(self, folder: Path, models: dict[str, str], count: int) -> None:
        self.folder, self.models, self.count = folder, models, count
        folder.mkdir()
        for name, part in (("train", rows(count)), ("test", rows(3, first=100))):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (folder / f"{name}.jsonl").write_text(lines)

    def flags(self, step: str, output: str, size: int, accumulated: int) -> dict[str, Any]:
        common = {
            "output_dir": str(self.folder / output),
            "data_output_path": str(self.folder / "prepared"),
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulated,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "num_train_epochs": 3,
        }
        if step == "dpo":
            names = {"model": "a", "ref_a": "b", "ref_b": "wide"}
            models = {flag: self.models[name] for flag, name in names.items()}
            return {"dataset": str(self.folder), **models, "max_length": 64, **common}
        split = {"sft": "1,0,0", "reward": "0,1,0"}[step]
        data = {"data_path": [str(self.folder)], "data_split": split, "max_seq_len": 64}
        return {"model_name_or_path": self.models["a"], **data, **common}

    def found(self, step: str, output: str) -> tuple[list[Any], dict[str, torch.Tensor]]:
        """The rows of metrics, and the weights at the end."""
        folder = self.folder / output
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        model = next(folder.glob("step_*")) if step == "reward" else folder
        return [json.loads(line) for line in lines], load_file(model / "model.safetensors")


def same(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    """The same losses, statistics and weights, up to rounding."""
    (metrics, weights), (others, other_weights) = found, expected
    assert len(metrics) == len(others) == 4
    for row, other in zip(metrics, others, strict=True):
        # TRL's own of SFT are means over micro-batches.
        left_out = {"seconds", "micro_step", "entropy"}
        left_out |= {"mean_token_accuracy", "grad_norm"}  # the norm is known under ZeRO only
        assert row.keys() - left_out == other.keys() - left_out
        for name in row.keys() - left_out:
            assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
    for name, value in weights.items():
        close = (value - other_weights[name]).abs() < 3e-4  # of three steps of 1e-2
        assert close.float().mean() > 0.999, name


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The gradient of every optimiser step, as it was before the step."""
    found: list[dict[str, torch.Tensor]] = []
    plain = CheckedEngine._fault

    def noted(self: CheckedEngine) -> Any:
        assert "buffered_allreduce_fallback" in vars(self.engine)  # `spare_gradient_copies`
        parameters = self.engine.module.named_parameters()
        found.append({n: p.grad.clone() for n, p in parameters if p.grad is not None})
        return plain(self)

    monkeypatch.setattr(CheckedEngine, "_fault", noted)
    return found


@pytest.mark.parametrize("step", STEPS)
def test_seven_rows_as_2_2_2_1_are_a_batch_of_7(
    step: str, tmp_path: Path, dpo_models: dict[str, str], gradients: list[Any]
) -> None:
    data = Rows(tmp_path / "rows", dpo_models, 7)
    run_step(step, data.flags(step, "whole", 7, 1))
    run_step(step, data.flags(step, "ragged", 2, 4))
    same(data.found(step, "ragged"), data.found(step, "whole"))
    whole, *_, ragged, _, _ = gradients
    assert whole.keys() == ragged.keys()
    assert len(whole) > 10
    for name, gradient in whole.items():
        error = (ragged[name] - gradient).norm() / gradient.norm()
        assert error < 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize(("step", "stage"), [("sft", 0), ("sft", 3), ("reward", 3), ("dpo", 2)])
def test_two_ranks_with_rows_for_one_and_a_half(
    step: str, stage: int, tmp_path: Path, dpo_models: dict[str, str]
) -> None:
    """5 rows as 2 and 2, then 1 and none: nothing is repeated, nothing hangs."""
    data = Rows(tmp_path / "rows", dpo_models, 5)
    run_step(step, data.flags(step, "whole", 5, 1))
    flags = {**data.flags(step, "ranks", 2, 2), "zero_stage": stage}
    if stage == 3:
        flags["gradient_checkpointing"] = True
    run = run_script(SCRIPTS[step], command_line(flags), ranks=2)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    same(data.found(step, "ranks"), data.found(step, "whole"))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_row_once_and_as_many_micro_batches_on_each_rank(ranks: int) -> None:
    for count in range(1, 20):
        for size in (1, 2, 5):
            shares = []
            whole = list(RankBatches(count, size, 1, 0, 1))
            for rank in range(ranks):
                batches = RankBatches(count, size, 1, rank, ranks)
                shares.append(list(batches))
                assert len(shares[-1]) == len(batches)
            assert len({len(share) for share in shares}) == 1
            seen = [row for share in shares for batch in share for row in batch]
            assert sorted(seen) == list(range(count))
            # In the order of a single rank: round after round, rank after rank.
            rounds: Callable[..., Any] = zip
            assert [batch for r in rounds(*shares) for batch in r if batch] == whole
