"""GRPO and RLOO in the online trainer, with one reference and several."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.errors import UserError
from dschat.models.references import Reference, ReferenceOnDisk
from dschat.online.metrics import iteration_metrics
from dschat.regularization.base import with_defaults
from dschat.rewards import as_reward
from dschat.rollout.sampler import Sampler
from dschat.runtime import distributed
from online_fixtures import make_trainer, score
from target_fixtures import with_group_targets
from tiny import tiny_config
from transformers import AutoModelForCausalLM

GROUP = {"algorithm": "grpo", "num_generations": 4}


def another_model(folder: Path, tokenizer: Any, seed: int, rows: int | None = None) -> Path:
    """A tiny model with its own weights, the vocabulary padded to `rows`."""
    torch.manual_seed(seed)
    config = tiny_config(tokenizer, vocab_size=rows or len(tokenizer), initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def refs(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two references; the second one's vocabulary is padded by eight rows."""
    folder = tmp_path_factory.mktemp("refs")
    rows = len(tiny_tokenizer) + 8
    return [
        str(another_model(folder / "a", tiny_tokenizer, 1)),
        str(another_model(folder / "b", tiny_tokenizer, 2, rows)),
    ]


def weights(engine: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in engine.module.parameters()]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize(
    ("wasserstein", "changes"),
    [
        (False, {}),
        (False, {"f_div": "js", "f_div_form": "gradient", "loss_normalization": "sequence"}),
        (True, {"cost_dim": 8, "top_k": 8, "epsilon": 1.0}),
        (True, {"regularizer": "sinkhorn_divergence", "top_k": 8}),
    ],
)
def test_every_regulariser_works_with_every_algorithm_and_several_references(
    settings: Any, refs: list[str], algorithm: str, wasserstein: bool, changes: dict[str, Any]
) -> None:
    flags = {**GROUP, "algorithm": algorithm, "refs": refs, "ref_weights": [0.25, 0.75], **changes}
    trainer = make_trainer(settings(**flags), wasserstein=wasserstein)
    assert trainer.critic is None
    before = weights(trainer.actor)
    metrics = trainer.run_iteration(trainer.prompts[:2])
    assert metrics["responses"] == 8
    assert metrics["divergence"] > 0
    parts = [metrics[f"penalty/divergence/ref_{k}"] for k in (0, 1)]
    assert metrics["divergence"] == pytest.approx(0.25 * parts[0] + 0.75 * parts[1], rel=1e-4)
    assert "critic_lr" not in metrics
    assert "value" not in metrics
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(trainer.actor), strict=True))


def plain_logprobs(folder: str, rows: int, sequences: list[list[int]], starts: list[int]) -> Any:
    """Tempered log-probabilities of the tokens from `starts` on, one unpadded row at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for ids, start in zip(sequences, starts, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :, :rows].double() / 0.8
        logprobs = logits.log_softmax(1)
        found.append(torch.stack([logprobs[t - 1, ids[t]] for t in range(start, len(ids))]))
    return found


@pytest.mark.parametrize("residency", ["all", "cpu", "one"])
def test_the_token_penalty_is_the_unnormalised_weighted_log_ratio_of_unpadded_rows(
    settings: Any, refs: list[str], tiny_model_dir: Path, tiny_tokenizer: Any, residency: str
) -> None:
    trainer = make_trainer(
        settings(**GROUP, refs=refs, ref_weights=[0.3, 0.7], reference_residency=residency)
    )
    expected_kind = ReferenceOnDisk if residency == "one" else Reference
    assert all(isinstance(r, expected_kind) for r in trainer.scorer.penalty.references)
    prompts = [p for p in trainer.prompts[:2] for _ in range(4)]
    assert len({len(p.ids) for p in prompts}) > 1, "padding is wanted"
    experiences, _ = score(trainer, trainer.sample(prompts))
    rows = len(tiny_tokenizer)
    for e in experiences:
        examples = e.rollout.examples
        sequences = [x["prompt_ids"] + x["response_ids"] for x in examples]
        starts = [len(x["prompt_ids"]) for x in examples]
        policy, a, b = (
            plain_logprobs(str(folder), rows, sequences, starts)
            for folder in (tiny_model_dir, *refs)
        )
        for i in range(len(sequences)):
            expected = policy[i] - 0.3 * a[i] - 0.7 * b[i]
            found = e.token_penalty[i][e.rollout.response_mask[i]]
            torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)


def test_references_on_disk_are_in_memory_one_at_a_time(
    settings: Any, refs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(settings(**GROUP, refs=refs, reference_residency="one"))
    alive, most = 0, 0

    def counting(load: Any) -> Any:
        def loaded() -> Any:
            nonlocal alive, most
            policy = load()
            alive += 1
            most = max(most, alive)
            move = policy.to

            def to(target: Any) -> Any:
                nonlocal alive
                alive -= target == "meta"
                return move(target)

            policy.to = to
            return policy

        return loaded

    for reference in trainer.scorer.penalty.references:
        reference.load = counting(reference.load)
    trainer.run_iteration(trainer.prompts[:2])
    assert most == 1
    assert alive == 0


def test_the_policy_never_samples_what_a_reference_cannot(
    settings: Any, refs: list[str], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = len(tiny_tokenizer) + 40
    padded = another_model(tmp_path / "padded", tiny_tokenizer, 3, rows)
    trainer = make_trainer(settings(**GROUP, actor_model_name_or_path=str(padded), refs=refs))
    layer = trainer.actor.module.output_layer
    assert layer.vocabulary_size == len(tiny_tokenizer)
    with torch.no_grad():  # the padding would be all that is ever sampled
        layer.linear.weight[-40:] = 100 * layer.linear.weight[:40]
    rollouts = trainer.sample([p for p in trainer.prompts[:2] for _ in range(4)])
    assert all(int(r.actions.max()) < len(tiny_tokenizer) for r in rollouts)
    assert trainer.run_iteration(trainer.prompts[:2])["ratio"] == pytest.approx(1.0, abs=1e-6)


def test_metrics_of_tiny_spreads_and_of_the_penaltys_time(settings: Any) -> None:
    trainer = make_trainer(settings(**GROUP, scale_rewards=True))
    penalty, calls = trainer.scorer.penalty.regularizer, []

    def slow(*args: Any, **options: Any) -> Any:
        calls.append(time.sleep(0.05))
        return penalty(*args, **options)

    trainer.scorer.penalty.regularizer = with_defaults(slow)
    # Of the two groups of an iteration one has next to no spread; then none has.
    for last, share in ((0.001, 0.5), (0.0, 0.0)):
        scores = [1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5 + last]
        trainer.reward = as_reward(lambda *_, scores=scores: scores)
        calls.clear()
        metrics = trainer.run_iteration(trainer.prompts[:2])
        assert metrics["std_floored"] == share
        assert 0.05 * len(calls) <= metrics["time/penalty_s"] < metrics["time/score_s"]


def test_advantages_token_by_token(settings: Any) -> None:
    """Two groups of two, on paper: centred scores and centred penalties-to-go."""
    trainer = make_trainer(settings(**{**GROUP, "num_generations": 2}))
    experiences, _ = score(trainer, trainer.sample([p for p in trainer.prompts[:4] for _ in "ab"]))
    for e in experiences:
        e.scores.copy_(torch.arange(4.0) ** 2)
        e.token_penalty.copy_(torch.arange(e.token_penalty.numel()).reshape(e.token_penalty.shape))
        e.token_penalty[~e.rollout.response_mask] = 1e9
    for rloo, scale in ((False, False), (False, True), (True, False)):
        found = with_group_targets(experiences, 8, 0.1, rloo, scale)[0]
        for e, result in zip(experiences, found, strict=True):
            mask = e.rollout.response_mask
            to_go = [
                [
                    -0.1 * sum(float(e.token_penalty[i, s]) for s in range(t, int(mask[i].sum())))
                    for t in range(mask.shape[1])
                ]
                for i in range(4)
            ]
            for i in range(4):
                j = i ^ 1
                for t in range(int(mask[i].sum())):
                    mine = i**2 + to_go[i][t]
                    others = j**2 + to_go[j][t]
                    expected = mine - others if rloo else (mine - others) / 2
                    if scale:
                        expected /= abs(i**2 - j**2) / 2
                    assert float(result.advantages[i, t]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 3}, "3 does not divide the 8 responses"),
        ({"num_generations": 1}, "give 2 or more"),
        ({"lam": 0.9, "critic_zero_stage": 3}, "--lam, --critic_zero_stage: --algorithm grpo"),
        ({"ref_weights": [0.5, 0.5]}, "--ref_weights needs the references"),
        ({"refs": ["a", "b"], "ref_weights": [0.5, 0.6]}, "add up to 1.1"),
        ({"refs": ["a", "b"], "ref_weights": [-0.5, 1.5]}, "from 0 to 1"),
        ({"refs": ["no/such/folder"]}, "--refs no/such/folder"),
        ({"reference_quantization": "8bit"}, "bitsandbytes"),
        (
            {"reference_quantization": "4bit", "reference_residency": "cpu"},
            "quantised weights stay on their device",
        ),
        ({"algorithm": "rloo", "scale_rewards": True}, "--scale_rewards belongs to"),
        ({"algorithm": "ppo", "scale_rewards": True}, "--scale_rewards belongs to"),
    ],
)
def test_errors(settings: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(settings(**{**GROUP, **changes}))


def test_a_reference_with_another_vocabulary_is_refused_with_the_tokens_that_differ(
    settings: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    import copy

    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["zebra"])
    folder = another_model(tmp_path / "other", other, 4)
    with pytest.raises(UserError, match="'zebra' .id 200."):
        make_trainer(settings(**GROUP, refs=[str(folder)]))


def test_ppo_with_several_references_trains_actor_and_critic(
    settings: Any, refs: list[str]
) -> None:
    trainer = make_trainer(settings(refs=refs, ref_weights=[0.4, 0.6]))
    before = weights(trainer.actor) + weights(trainer.critic)
    metrics = trainer.run_iteration(trainer.prompts[:8])
    after = weights(trainer.actor) + weights(trainer.critic)
    assert all(f"penalty/divergence/ref_{k}" in metrics for k in (0, 1))
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(before) / 2


@pytest.mark.parametrize(("algorithm", "kept"), [("grpo", 1), ("ppo", 0)])
def test_a_response_of_the_end_token_alone_is_a_response_without_a_critic(
    settings: Any, monkeypatch: pytest.MonkeyPatch, algorithm: str, kept: int
) -> None:
    """A group's baseline counts it, so its token must learn as well."""
    trainer = make_trainer(settings(**{**GROUP, "algorithm": algorithm}))
    end = trainer.tokenizer.eos_token_id
    monkeypatch.setattr(Sampler, "sample", lambda *_: [[end]] * 8)
    rollouts = trainer.sample([p for p in trainer.prompts[:2] for _ in range(4)])
    assert [r.response_mask.sum().item() for r in rollouts] == [4 * kept, 4 * kept]


def test_loading_a_reference_in_the_middle_of_a_run_leaves_the_random_numbers(
    settings: Any, refs: list[str]
) -> None:
    trainer = make_trainer(settings(**GROUP, refs=refs, reference_residency="one"))
    drawn = []
    for _ in range(2):
        with trainer.scorer.penalty.references[0].on_device():
            pass
        drawn.append(torch.rand(4))
    assert not torch.equal(*drawn)


def test_a_rank_without_any_response_reports_what_the_others_report(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a rank's responses may be dropped: its sums must still line up with theirs."""
    trainer = make_trainer(settings())
    end = trainer.tokenizer.eos_token_id
    monkeypatch.setattr(Sampler, "sample", lambda *_: [[end]] * 8)
    experiences, sums = score(trainer, trainer.sample(trainer.prompts[:8]))
    assert not any(name.startswith("penalty/") for name in sums)
    theirs = {"positions", "penalty/a", "penalty/b", "reward/c", "reward_count/c"}
    monkeypatch.setattr(distributed, "gather_objects", lambda own: [own, theirs])
    reduced = []
    monkeypatch.setattr(
        distributed, "sum_over_ranks", lambda values, device: reduced.append(values) or values
    )
    metrics = iteration_metrics(experiences, sums, 0.1, trainer.device)
    assert theirs - {"positions", "reward/c", "reward_count/c"} <= set(metrics)
    full = dict.fromkeys(theirs | set(sums), 1.0)
    iteration_metrics(experiences, full, 0.1, trainer.device)
    assert len(reduced[0]) == len(reduced[1])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_policy_that_is_its_reference_has_no_divergence_at_all(
    settings: Any, checkpointing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Policy and reference take the same passes, so that equal weights give equal bits."""
    trainer = make_trainer(settings(actor_gradient_checkpointing=checkpointing, **GROUP))
    assert ("once per response, not once per group" in capsys.readouterr().out) == checkpointing
    experiences, _ = score(trainer, trainer.sample([trainer.prompts[0]] * 8))
    for e in experiences:
        assert torch.equal(e.logprobs, e.reference_logprobs)
        assert not e.divergence.any()
