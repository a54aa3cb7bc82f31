"""Steps 1, 2 and DPO on data of a few rows, of which some cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.runtime.files import write_jsonl
from dschat.settings.dpo import DirectPreferenceConfig
from dschat.settings.supervised import RewardModelingConfig, SupervisedConfig
from dschat.supervised.dpo import train_dpo
from dschat.supervised.reward_modeling import train_reward_model
from dschat.supervised.sft import train_sft
from preferences import rows

Settings = Callable[..., dict[str, Any]]
Metrics = Callable[[str | Path], list[dict[str, Any]]]
BAD = {"prompt": " ", "chosen": " ", "rejected": " "}


@pytest.fixture(params=["sft", "reward", "dpo"])
def train(
    request: Any, settings: Settings, dpo_settings: Settings, dpo_models: dict[str, str]
) -> Callable[[Path], Path]:
    """Trains on the rows of a file and gives the output folder."""

    def run(path: Path) -> Path:
        config: Any
        if request.param == "dpo":
            flags = dpo_settings(dataset=[str(path)], refs=[dpo_models["a"]], max_steps=1)
            config = DirectPreferenceConfig(**flags)
        else:
            kinds: dict[str, Any] = {"sft": SupervisedConfig, "reward": RewardModelingConfig}
            flags = settings(
                data_path=[str(path)],
                model_name_or_path=dpo_models["a"],
                data_split={"sft": "1,0,0", "reward": "0,1,0"}[request.param],
            )
            config = kinds[request.param](**flags)
        config.validate()
        {"sft": train_sft, "reward": train_reward_model, "dpo": train_dpo}[request.param](config)
        return Path(flags["output_dir"])

    return run


def test_too_few_rows_to_hold_any_out_are_trained_on(
    train: Any, read_metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """5 % of 8 rows are none: there is nothing to evaluate on, and training goes as ever."""
    write_jsonl(tmp_path / "few.jsonl", rows(8))
    with caplog.at_level(logging.WARNING):
        found = read_metrics(train(tmp_path / "few.jsonl"))
    assert "too few rows to hold 5 % out" in caplog.text
    assert found[-1]["step"] >= 1
    assert not any(name.startswith("eval_") for row in found for name in row)


def test_a_bad_row_that_is_held_out_is_left_out(
    train: Any, read_metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 20 rows one is held out. Wherever the bad row lies, training goes on without it."""
    from dschat.data.splits import split_indices

    _, held_out = split_indices(20, (95, 5), 1234)
    given = rows(20)
    for place in {int(held_out[0]), int(split_indices(20, (95, 5), 1)[1][0])}:
        given[place] = BAD
    write_jsonl(tmp_path / "twenty.jsonl", given)
    with caplog.at_level(logging.WARNING):
        found = read_metrics(train(tmp_path / "twenty.jsonl"))
    assert "none of those held out can be used" in caplog.text
    assert found[-1]["step"] >= 1
