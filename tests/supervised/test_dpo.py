"""DPO with several references in this process: its numbers, its outputs, what it refuses."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from dpo_fixtures import configured, long_way
from dschat.commands.dpo import COMMAND_LINE
from dschat.models.loading import load_causal_lm
from dschat.supervised import dpo, reference_scoring
from dschat.supervised.batches import planned_rows
from dschat.supervised.dpo import encode_preference, load_pairs, load_policy, train_dpo
from dschat.supervised.dpo_trainer import MultiReferenceTrainer, PairObjective
from dschat.supervised.fine_tuning import set_up, trainer_arguments
from dschat.supervised.progress import Progress
from dschat.supervised.trainer import FineTuningTrainer
from preferences import rows
from transformers import AutoModelForCausalLM, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

Settings = Callable[..., dict[str, Any]]
Metrics = Callable[[str | Path], list[dict[str, Any]]]


@pytest.mark.parametrize("kl_type", ["rkl", "fkl"])
def test_the_first_evaluation_is_the_formula(
    kl_type: str,
    dpo_models: dict[str, str],
    tiny_tokenizer: Any,
    dpo_settings: Settings,
    read_metrics: Metrics,
) -> None:
    """Margins of 3 references and another policy, one of padded width, against plain arithmetic."""
    paths, weights, gamma = (
        [dpo_models["a"], dpo_models["b"], dpo_models["wide"]],
        [0.5, 0.2, 0.3],
        0.3,
    )
    flags = dpo_settings(refs=paths, ref_weights=weights, model=dpo_models["wide"], gamma=gamma)
    guard = {"max_log_ratio": 30} if kl_type == "fkl" else {}
    train_dpo(configured({**flags, "kl_type": kl_type, "max_steps": 1, **guard}))
    (first, *_) = read_metrics(flags["output_dir"])

    def implicit(prompt: str, response: str) -> tuple[float, list[float]]:
        texts = (tiny_tokenizer, prompt, response)
        log_pi = long_way(Path(dpo_models["wide"]), *texts)
        log_rho = [long_way(Path(path), *texts) for path in paths]
        if kl_type == "rkl":
            geometric = sum(w * l for w, l in zip(weights, log_rho, strict=True))
            return gamma * (log_pi - geometric), log_rho
        mean = sum(w * math.exp(l - log_pi) for w, l in zip(weights, log_rho, strict=True))
        return -gamma * mean, log_rho

    margins, of_chosen = [], []
    for row in rows(5, first=100):
        chosen, log_rho = implicit(row["prompt"], row["chosen"])
        rejected, _ = implicit(row["prompt"], row["rejected"])
        margins.append(chosen - rejected)
        of_chosen.append(log_rho[2])
    assert first["eval_rewards/margins"] == pytest.approx(fmean(margins), rel=1e-4)
    losses = [-math.log(1 / (1 + math.exp(-m))) for m in margins]
    assert first["eval_loss"] == pytest.approx(fmean(losses), rel=1e-4)
    assert first["eval_rewards/accuracies"] == fmean(m > 0 for m in margins)
    assert first["eval_logps/chosen"] == pytest.approx(fmean(of_chosen), rel=1e-5)
    assert first["eval_log_ratio/ref_2"] == 0.0  # the policy is still that reference
    assert abs(first["eval_log_ratio/ref_0"]) > 0.1
    assert first["eval_guard_share"] == 0.0
    # The padding is gone from what is saved; nothing else of the model's shape is.
    saved = AutoModelForCausalLM.from_pretrained(flags["output_dir"])
    assert saved.get_output_embeddings().weight.shape[0] == len(tiny_tokenizer)


def test_references_are_not_rounded_to_the_policys_dtype(
    dpo_models: dict[str, str], dpo_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, dtypes = PairObjective.losses, []

    def noted(self: PairObjective, logps: Any, references: Any, *rest: Any) -> Any:
        dtypes.append(references.dtype)
        return plain(self, logps, references, *rest)

    monkeypatch.setattr(PairObjective, "losses", noted)
    flags = dpo_settings(refs=dpo_models["b"], model=dpo_models["a"], bf16=True, max_steps=1)
    train_dpo(configured(flags))
    assert set(dtypes) == {torch.float32}


class StockTrainer(FineTuningTrainer, DPOTrainer):
    """TRL's loss and TRL's reference model; only the tokens and the optimiser are ours."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset


class Recorder(TrainerCallback):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.rows.append(logs)


def test_one_reference_is_trls_dpo(
    dpo_models: dict[str, str], dpo_settings: Settings, read_metrics: Metrics, tmp_path: Path
) -> None:
    flags = dpo_settings(refs=dpo_models["b"], model=dpo_models["a"], gamma=0.2, num_train_epochs=2)
    train_dpo(configured(flags))
    ours = [row for row in read_metrics(flags["output_dir"]) if row["step"] > 0]

    config = configured({**flags, "output_dir": str(tmp_path / "stock")})
    settings = config.fine_tuning()
    setup = set_up(settings, written=config)
    _, (train, _) = load_pairs(config, setup)
    trainer = StockTrainer(
        model=load_policy(config, setup, width=len(setup.tokenizer)),
        ref_model=load_causal_lm(dpo_models["b"], setup.tokenizer, setup.dtype),
        args=trainer_arguments(DPOConfig, settings, setup, num_train_epochs=2, beta=0.2),
        train_dataset=train,
        processing_class=setup.tokenizer,
    )
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.config = settings
    trainer.progress = Progress(setup.log, lambda last: {}, lambda micro_step, last: Path())
    trainer.train()
    theirs = [row for row in recorder.rows if "loss" in row]
    assert len(ours) == len(theirs) == 8
    for mine, peer in zip(ours, theirs, strict=True):
        for name in ("loss", "rewards/margins", "rewards/chosen", "rewards/accuracies"):
            assert mine[name] == pytest.approx(peer[name], abs=1e-5), name
    assert ours[-1]["loss"] < 0.9 * ours[0]["loss"]


@pytest.mark.parametrize("kl", [{"kl_type": "fkl", "beta": 0.1}, {"kl_type": "rkl_chi2"}])
def test_the_other_divergences_learn_and_the_guard_is_seen(
    kl: dict[str, Any], dpo_models: dict[str, str], dpo_settings: Settings, read_metrics: Metrics
) -> None:
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=dpo_models["b"], **kl)
    train_dpo(configured({**flags, "num_train_epochs": 3, "max_log_ratio": 0.5}))
    metrics = read_metrics(flags["output_dir"])
    assert metrics[-1]["eval_loss"] < metrics[0]["eval_loss"]
    # fkl guards what the policy has lost, here at the start; rkl_chi2 what it has gained.
    shares = [row["eval_guard_share"] for row in (metrics[0], metrics[-1])]
    assert 0 < max(shares) <= 1


def test_steps_are_counted_as_asked(
    dpo_models: dict[str, str], dpo_settings: Settings, read_metrics: Metrics
) -> None:
    flags = dpo_settings(
        ref_a=dpo_models["a"],
        ref_b=dpo_models["b"],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=5,
        eval_steps=3,
        logging_steps=2,
        save_steps=2,
        report_to=["tensorboard"],
        gradient_checkpointing=True,
        zero_stage=2,
        bf16=True,
    )
    train_dpo(configured(flags))
    output = Path(flags["output_dir"])
    metrics = read_metrics(output)
    assert [row["step"] for row in metrics] == [0, 2, 3, 4, 5]
    assert ["eval_loss" in row for row in metrics] == [True, False, True, False, True]
    assert ["loss" in row for row in metrics] == [False, True, False, True, False]
    assert [row["micro_step"] for row in metrics] == [0, 4, 6, 8, 10]
    saved = sorted(path.name for path in output.glob("checkpoint-*"))
    assert saved == ["checkpoint-2", "checkpoint-4"]
    for folder in (output, output / "checkpoint-2"):
        AutoModelForCausalLM.from_pretrained(folder)
    assert any((output / "tensorboard").iterdir())
    # What was written can be given back.
    again = COMMAND_LINE.parse([str(output / "config.yaml")])
    assert (again.bf16, again.eval_steps, again.ref_b) == (True, 3, dpo_models["b"])


def test_adapters_alone_are_trained_and_merged(
    dpo_models: dict[str, str], dpo_settings: Settings
) -> None:
    flags = dpo_settings(
        ref_a=dpo_models["a"], ref_b=dpo_models["b"], lora_dim=2, learning_rate=1e-1
    )
    train_dpo(configured({**flags, "lora_module_name": "q_proj", "gradient_checkpointing": True}))
    before = AutoModelForCausalLM.from_pretrained(dpo_models["a"]).state_dict()
    after = AutoModelForCausalLM.from_pretrained(flags["output_dir"]).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


def test_a_pair_is_cut_as_its_texts(tiny_tokenizer: Any) -> None:
    row = {"prompt": "The quick", "chosen": " brown fox", "rejected": " lazy dog"}
    whole = encode_preference(tiny_tokenizer, row, "<eos>", 64, None)
    assert whole["keep"]
    assert tiny_tokenizer.decode(whole["prompt_ids"]) == "The quick"
    assert tiny_tokenizer.decode(whole["chosen_ids"]) == " brown fox<eos>"
    length = len(whole["prompt_ids"])
    cut = encode_preference(tiny_tokenizer, row, "<eos>", length + 1, None)
    assert cut["keep"]
    assert cut["chosen_ids"] == whole["chosen_ids"][:1]
    assert not encode_preference(tiny_tokenizer, row, "<eos>", length, None)["keep"]
    assert encode_preference(tiny_tokenizer, row, "<eos>", 64, length)["keep"]
    assert not encode_preference(tiny_tokenizer, row, "<eos>", 64, length - 1)["keep"]
    same = {**row, "rejected": " brown fox jumps"}
    two = len(whole["chosen_ids"]) - 1
    assert not encode_preference(tiny_tokenizer, same, "<eos>", length + two, None)["keep"]


@pytest.mark.parametrize("flags", [{"max_steps": 2}, {"num_train_epochs": 0.5}])
def test_only_rows_that_are_trained_or_evaluated_on_are_scored(
    flags: dict[str, Any],
    dpo_models: dict[str, str],
    dpo_settings: Settings,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The steps are those of a run that scores everything: same rows, same losses."""
    given = dpo_settings(
        ref_a=dpo_models["a"],
        ref_b=dpo_models["b"],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        **flags,
    )
    planned: list[list[int] | None] = []
    trained: list[list[int]] = []
    plan, loss = dpo.rows_to_train_on, MultiReferenceTrainer.compute_loss

    def rows_to_train_on(config: Any, count: int) -> list[int] | None:
        planned.append(plan(config, count))
        return planned[-1]

    def compute_loss(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        trained.append(inputs["input_ids"].tolist())
        return loss(self, model, inputs, *rest, **more)

    monkeypatch.setattr(dpo, "rows_to_train_on", rows_to_train_on)
    monkeypatch.setattr(MultiReferenceTrainer, "compute_loss", compute_loss)
    train_dpo(configured({**given, "output_dir": given["output_dir"] + "-some"}))
    some, trained[:] = list(trained), []
    monkeypatch.setattr(dpo, "rows_to_train_on", lambda config, count: None)
    train_dpo(configured({**given, "output_dir": given["output_dir"] + "-all"}))
    assert some == trained
    assert planned[0] is not None
    assert len(planned[0]) == len(set(planned[0])) == 2 * len(some)
    rows = [read_metrics(given["output_dir"] + name) for name in ("-some", "-all")]
    assert len(rows[0]) == len(rows[1]) == 3
    for mine, theirs in zip(*rows, strict=True):
        for name in ("loss", "eval_loss", "rewards/margins", "log_ratio/ref_1"):
            assert (name in mine) == (name in theirs)
            # The references score the rows in other batches, with other padding.
            assert mine.get(name, 0) == pytest.approx(theirs.get(name, 0), abs=1e-5), name


def test_rows_of_whole_epochs_are_all_planned() -> None:
    assert planned_rows(10, -1, 1.0, 2, 2, 1, 0) is None
    assert planned_rows(10, 3, 1.0, 2, 2, 1, 0) is None  # 12 rows: the epoch's last step is short
    found = planned_rows(10, 2, 1.0, 2, 2, 1, 0)
    assert found is not None
    assert len(set(found)) == 8
    assert planned_rows(10, 2, 1.0, 2, 1, 2, 0) == found  # two ranks take the same rows
    assert planned_rows(10, 1, 1.0, 2, 2, 1, 0) == found[:4]
    assert planned_rows(10, 2, 1.0, 2, 2, 1, 1) != found
    assert planned_rows(10, -1, 0.4, 2, 2, 1, 0) == found  # 2 of 3 steps: the rest of one counts


def test_sigterm_while_references_score_leaves_in_order(
    dpo_models: dict[str, str],
    dpo_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is trained or saved, and the same command begins again and ends as ever."""
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=dpo_models["b"], max_steps=1)
    score = reference_scoring.sequence_logprobs
    calls: list[int] = []

    def signalled(model: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(reference_scoring, "sequence_logprobs", signalled)
        assert train_dpo(configured(flags)) == {}
    assert len(calls) == 2  # that batch is finished and no other is started
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "Stopped by SIGTERM before the first step" in capsys.readouterr().out
    assert not (Path(flags["output_dir"]) / "config.json").exists()
    assert train_dpo(configured({**flags, "resume_from_checkpoint": "auto"}))
    assert (Path(flags["output_dir"]) / "config.json").exists()


def test_sigterm_while_the_policy_loads_is_heard_at_the_first_step(
    dpo_models: dict[str, str], dpo_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = dpo_settings(ref_a=dpo_models["a"], ref_b=dpo_models["b"], max_steps=3)
    load = dpo.load_policy

    def signalled(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(dpo, "load_policy", signalled)
        train_dpo(configured(flags))
    assert (Path(flags["output_dir"]) / "resumable-1").is_dir()
    assert not (Path(flags["output_dir"]) / "config.json").exists()
