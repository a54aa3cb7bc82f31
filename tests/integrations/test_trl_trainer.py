"""What `RegularizedGRPOTrainer` does within TRL: training, masks, scaling, adapters, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from dschat.errors import UserError
from dschat.regularization import (
    FDivergence,
    KLDivergence,
    MixtureReference,
    MultiReference,
    SinkhornDivergence,
)
from dschat.regularization.sampled_kl import SampledKL
from trl_fixtures import Written, gradients, inputs_of, trainer_of, varied

PROMPTS = {"a": [5, 6, 7], "b": [8, 9, 10, 11, 12]}
COMPLETIONS = {"a": [[20, 21, 22, 1], [23, 24]], "b": [[25, 26, 27, 28, 29, 30], [31, 1]]}
WRITTEN = Written(PROMPTS, COMPLETIONS)


def reward(completions: list[str], **columns: Any) -> list[float]:
    return [1.0, 0.25, -0.5, 0.75]


def length(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(c)) for c in completions]


@pytest.fixture
def start(tiny_model_dir: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).float()


def made(folder: Path, model: Any, tokenizer: Any, **options: Any) -> Any:
    score = options.pop("reward", reward)
    rollouts = options.pop("rollouts", WRITTEN)
    return trainer_of(folder, model, tokenizer, list(PROMPTS), score, rollouts, **options)


def generated(trainer: Any) -> dict[str, torch.Tensor]:
    trainer.model.train()
    return trainer._generate_and_score_completions(inputs_of("ab", 2))


def test_advantages_are_of_the_penalties_to_come(
    start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """The log-ratios are transformers' own; sums and means are written out with numpy."""
    reference = varied(start, 1)
    trainer = made(
        tmp_path,
        start,
        tiny_tokenizer,
        references=reference,
        coefficient=0.3,
        temperature=0.7,
        scale_rewards="group",
    )
    output = generated(trainer)
    rows, width = [c for p in "ab" for c in COMPLETIONS[p]], 6
    to_go = np.zeros((4, width))
    for i, (prompt, row) in enumerate(zip("aabb", rows, strict=True)):
        ids = torch.tensor([PROMPTS[prompt] + row])
        tables = [
            (m(input_ids=ids).logits[0] / 0.7).log_softmax(-1).detach() for m in (start, reference)
        ]
        at = range(len(PROMPTS[prompt]) - 1, ids.shape[1] - 1)
        ratio = [float(tables[0][t, a] - tables[1][t, a]) for t, a in zip(at, row, strict=True)]
        to_go[i, : len(row)] = -0.3 * np.cumsum(ratio[::-1])[::-1]
    scores = np.array(reward([]))
    for pair in (slice(0, 2), slice(2, 4)):
        centred = (scores[pair] - scores[pair].mean())[:, None] + to_go[pair] - to_go[pair].mean(0)
        expected = centred / (scores[pair].std(ddof=1) + 1e-4)
        mask = output["completion_mask"][pair].bool().numpy()
        found = output["advantages"][pair].numpy()
        np.testing.assert_allclose(found[mask], expected[mask], atol=2e-5)
        assert not found[~mask].any()


def test_without_a_coefficient_advantages_are_trls(
    start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    found = generated(made(tmp_path, start, tiny_tokenizer, coefficient=0.0))["advantages"]
    scores = torch.tensor(reward([])).view(2, 2)
    expected = (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(found[:, 0], expected.flatten(), atol=1e-6, rtol=1e-6)


def test_equal_rewards_leave_the_penalty_as_it_is(
    start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """TRL's std + 1e-4 would multiply it by 10,000."""
    options = {"reward": lambda completions, **_: [1.0] * 4, "references": varied(start, 1)}
    by_std = generated(made(tmp_path, start, tiny_tokenizer, scale_rewards="group", **options))
    plain = generated(made(tmp_path, start, tiny_tokenizer, scale_rewards="none", **options))
    assert plain["advantages"].abs().max() > 0.01
    torch.testing.assert_close(by_std["advantages"], plain["advantages"])


def test_a_tools_tokens_and_masked_completions_are_not_penalised(
    start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    masks = {"a": [[1, 0, 1, 1], [1, 1]], "b": [[1] * 6, [1, 1]]}
    trainer = made(
        tmp_path,
        start,
        tiny_tokenizer,
        references=varied(start, 1),
        rollouts=Written(PROMPTS, COMPLETIONS, masks),
        mask_truncated_completions=True,
    )
    output = generated(trainer)
    active = output["completion_mask"].bool() & output["tool_mask"].bool()
    assert active.sum(1).tolist() == [3, 0, 0, 2]  # the second and third do not end
    assert (output["advantages"] != 0).equal(active)
    trainer.compute_loss(trainer.model, output).backward()


@pytest.mark.parametrize("loss_type", ["dr_grpo", "luspo", "cispo", "sapo", "vespo"])
def test_losses_take_advantages_per_token(
    loss_type: str, start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """At ratio 1 the gradient is linear in them, so that those of single columns add up."""
    trainer = made(
        tmp_path, start, tiny_tokenizer, references=varied(start, 1), loss_type=loss_type
    )
    output = generated(trainer)

    def gradient(advantages: torch.Tensor) -> torch.Tensor:
        start.zero_grad()
        trainer.compute_loss(start, {**output, "advantages": advantages}).backward()
        return gradients(start)

    whole = gradient(output["advantages"])
    columns = torch.eye(output["advantages"].shape[1])
    parts = [gradient(output["advantages"] * column) for column in columns]
    assert float(parts[1].norm()) > 1e-4
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["wasserstein", "mixture", "partial"])
def test_any_regularizer(name: str, start: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    from functools import partial

    two = [varied(start, 1), varied(start, 2)]
    regularizer, references = {
        "wasserstein": ("wasserstein", two[0]),
        "mixture": (MixtureReference(FDivergence("fkl", form="gradient"), [0.5, 0.5]), two),
        "partial": (partial(SinkhornDivergence, top_k=8), two[0]),
    }[name]
    trainer = made(tmp_path, start, tiny_tokenizer, regularizer=regularizer, references=references)
    assert generated(trainer)["advantages"].isfinite().all()
    metrics = trainer._metrics["train"]
    assert {"divergence", "token_penalty"} <= metrics.keys()
    assert any(metric.startswith("penalty/") for metric in metrics)
    # The published penalty's costs are out of reach at its epsilon: it has no divergence to see.
    assert metrics["token_penalty" if name == "wasserstein" else "divergence"][0] != 0


@pytest.mark.parametrize("adapters", [False, True])
def test_it_trains_and_starts_at_divergence_0(
    adapters: bool, tiny_model_dir: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """TRL generates itself; its batch of 8 is shuffled, split in two, and used twice."""
    from peft import LoraConfig

    peft = LoraConfig(target_modules=["q_proj", "v_proj"], r=4) if adapters else None
    prompts = ["What about tea?", "The fox", "An egg and a dog", "Paris"]
    trainer = trainer_of(
        tmp_path,
        str(tiny_model_dir),
        tiny_tokenizer,
        prompts,
        length,
        regularizer=KLDivergence("exact"),
        coefficient=0.1,
        peft_config=peft,
        eval_dataset=Dataset.from_dict({"prompt": prompts}),
        eval_strategy="steps",
        eval_steps=2,
        max_steps=6,
        steps_per_generation=2,
        num_iterations=2,
        learning_rate=1e-2,
    )
    rows: list[tuple[torch.Tensor, ...]] = []
    original = trainer._generate_and_score_completions

    def watched(inputs: Any) -> Any:
        output = original(inputs)
        if trainer.model.training:
            rows.append((output["completion_ids"], output["advantages"]))
        return output

    trainer._generate_and_score_completions = watched
    trainer.train()
    used = torch.cat([b["advantages"] for b in trainer._buffered_inputs])
    ids = torch.cat([b["completion_ids"] for b in trainer._buffered_inputs])
    pairs = {(*i.tolist(), *a.tolist()) for i, a in zip(*rows[-1], strict=True)}
    assert {(*i.tolist(), *a.tolist()) for i, a in zip(ids, used, strict=True)} == pairs
    history = [h["divergence"] for h in trainer.state.log_history if "divergence" in h]
    assert history[0] == pytest.approx(0, abs=1e-6)
    assert history[-1] > 1e-4
    assert any(h.get("eval_divergence", 0) > 1e-4 for h in trainer.state.log_history)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0.04),
        ("importance_sampling_level", "sequence"),
        ("off_policy_mask_threshold", 0.5),
        ("multi_objective_aggregation", "normalize_then_sum"),
        ("cast_lm_head_to_fp32", True),
    ],
)
def test_settings_that_do_not_work_are_refused_by_name(
    name: str, value: Any, start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{name}={value!r}"):
        made(tmp_path, start, tiny_tokenizer, **{name: value})


def test_references_and_weights_have_to_fit(
    start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    two = [varied(start, 1), varied(start, 2)]
    with pytest.raises(UserError, match="MultiReference"):
        made(tmp_path, start, tiny_tokenizer, references=two)
    three = MultiReference(KLDivergence(), [0.2, 0.3, 0.5])
    with pytest.raises(UserError, match="3 weights for 2 references"):
        made(tmp_path, start, tiny_tokenizer, references=two, regularizer=three)
    with pytest.raises(UserError, match="coefficient=-1"):
        made(tmp_path, start, tiny_tokenizer, coefficient=-1.0)
    with pytest.raises(UserError, match="Did you mean 'kl'"):
        made(tmp_path, start, tiny_tokenizer, regularizer="klx")


@pytest.mark.parametrize("kl_term", ["k3", "top_k"])
def test_a_term_in_the_loss_is_refused(
    kl_term: str, start: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    regularizer = MultiReference(SampledKL("loss", kl_term), [1.0])
    with pytest.raises(UserError, match="a term of its own in the loss"):
        made(tmp_path, start, tiny_tokenizer, regularizer=regularizer)
