"""README.md of a saved model: what it says, what it keeps to itself, and whose file it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dschat.checkpoint.model_card import Extras
from dschat.checkpoint.model_folder import save_model_folder
from dschat.runtime.run_files import MetricsLog
from dschat.settings.online import online_config
from dschat.settings.supervised import SupervisedConfig
from huggingface_hub import ModelCard


def extras(folder: Path, **changes: Any) -> Extras:
    log = MetricsLog(folder)
    for step, seconds in ((1, 3.0), (2, 9.0)):
        log.write({"step": step, "reward": step / 2, "time/total_s": seconds, "seconds": seconds})
        log.write({"step": step, "iteration": step, "eval/accuracy": 0.25 * step})
    log.close()
    settings = online_config(
        actor_model_name_or_path=str(folder / "private" / "base"),
        data_path=["Dahoas/rm-static", str(folder / "private" / "rows.jsonl")],
        kl_ctl=0.125,
        output_dir=str(folder),
        **changes,
    )
    return Extras("GRPO", settings, log)


def test_the_card_says_what_the_model_was_made_of(tmp_path: Path) -> None:
    card = ModelCard(extras(tmp_path).card("actor"))
    assert card.data.datasets == ["Dahoas/rm-static"]
    assert card.data.base_model is None  # a local folder is no hub name
    assert card.data.pipeline_tag == "text-generation"
    rows = [line.strip("| ").split(" | ") for line in card.text.splitlines() if "| " in line]
    found = {row[0]: row[1] for row in rows if len(row) == 2}
    assert found["base model"] == "base"
    assert found["data"] == "Dahoas/rm-static, rows.jsonl"
    assert (found["penalty"], found["coefficient"]) == ("f_divergence", "0.125")
    assert (found["step"], found["reward"], found["eval/accuracy"]) == ("2", "1", "0.5")
    assert "transformers" in found
    assert str(tmp_path) not in card.text
    assert "private" not in card.text


def test_times_and_the_way_a_run_was_resumed_change_nothing(tmp_path: Path) -> None:
    one = extras(tmp_path / "a", checkpoint_steps=3)
    other = extras(tmp_path / "b", resume_from_checkpoint="auto", report_to=["tensorboard"])
    other.log.path.write_text(other.log.path.read_text().replace("9.0", "8.5"))
    assert one.card("actor") == other.card("actor")


def test_a_hub_model_is_named_as_the_base(tmp_path: Path) -> None:
    settings = SupervisedConfig(model_name_or_path="owner/base", output_dir=str(tmp_path))
    card = Extras("reward modelling", settings, MetricsLog(tmp_path), {"eval_loss": 0.5}).card()
    read = ModelCard(card)
    assert read.data.base_model == "owner/base"
    assert read.data.pipeline_tag == "text-classification"
    assert "| eval_loss | 0.5 |" in card


@pytest.mark.parametrize("own", [True, False])
def test_another_readme_is_not_replaced(
    own: bool, tmp_path: Path, tiny_model_dir: Path, tiny_tokenizer: Any
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    what, given = tmp_path / "out", extras(tmp_path / "run")
    what.mkdir()
    before = "# My project\n" if own else given.card().replace("reward", "former")
    (what / "README.md").write_text(before)
    save_model_folder(model, tiny_tokenizer, what, keep_other_files=True, extras=given)
    assert (what / "README.md").read_text() == (before if own else given.card())
