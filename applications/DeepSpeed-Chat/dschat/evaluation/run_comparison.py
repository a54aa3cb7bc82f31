"""Several trained policies beside each other: a table, sample responses and a picture.

    python -m dschat.evaluation.run_comparison --reference runs/sft --reward_model runs/rm/step_96 \
        --policies SFT=runs/sft "PPO + KL=runs/kl/step-80/actor" --runs "PPO + KL=runs/kl" \
        --data_path runs/data --max_answer_seq_len 32 --output_dir runs
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dschat.errors import UserError
from dschat.runtime.files import atomic_write_text, explain_write_errors
from dschat.runtime.script import run_script
from dschat.settings.command_line import flag, parse_config, require


@dataclass
class ComparisonConfig:
    """What to compare, and on what."""

    reference: str | None = flag(None, "The model all policies started from. Required.")
    reward_model: str | None = flag(None, "The reward model that scores responses. Required.")
    policies: list[str] = flag([], "NAME=FOLDER of each policy's model. Required.")
    runs: list[str] = flag([], "NAME=FOLDER of the runs whose metrics.jsonl are plotted.")
    data_path: list[str] = flag([], "Data sets whose held-out prompts are used. Required.")
    num_prompts: int = flag(128, "At most so many of them.")
    max_prompt_seq_len: int = flag(256, "Longer prompts are left out.")
    max_answer_seq_len: int = flag(64, "Responses stop at this many tokens.")
    temperature: float = flag(1.0, "Sampling temperature.")
    epsilon: float | None = flag(
        None,
        "Entropic regularisation of the Wasserstein column (a Sinkhorn divergence), in units of "
        "the mean distance of two tokens; unset: as for --transport sinkhorn_divergence.",
    )
    num_samples: int = flag(3, "Prompts whose responses are shown side by side.")
    seed: int = flag(1234, "Seed of sampling.")
    output_dir: str | None = flag(None, "Folder for comparison.json and comparison.png. Required.")

    def validate(self) -> None:
        """Refuse what is missing; raises `UserError`."""
        for name in ("reference", "reward_model", "policies", "data_path", "output_dir"):
            require(bool(getattr(self, name)), f"Give --{name}; --help says what it is.")
        for pair in (*self.policies, *self.runs):
            require("=" in pair, f"{pair!r}: expected NAME=FOLDER.")


def compare(config: ComparisonConfig) -> Path:
    """Evaluate every policy, print the table and the samples; returns the picture's path."""
    from dschat.evaluation.comparison_output import (
        format_samples,
        format_table,
        plot_runs,
        read_metrics,
    )

    assert config.output_dir is not None
    prompts, reports = _evaluate(config)
    print(format_table(reports))
    print(format_samples([p.text for p in prompts], reports, config.num_samples))
    output = Path(config.output_dir)
    result = {
        "prompts": [p.text for p in prompts],
        "policies": {name: asdict(report) for name, report in reports.items()},
    }
    atomic_write_text(output / "comparison.json", json.dumps(result, indent=1))
    runs = dict(pair.split("=", 1) for pair in config.runs)
    picture = output / "comparison.png"
    with explain_write_errors(picture):
        plot_runs({name: read_metrics(folder) for name, folder in runs.items()}, picture)
    return picture


def _evaluate(config: ComparisonConfig) -> tuple[list[Any], dict[str, Any]]:
    import torch
    from tqdm import tqdm

    from dschat.data.load import load_data
    from dschat.data.prompts import build_prompts
    from dschat.evaluation.policies import evaluate_policy
    from dschat.models.loading import load_causal_lm, load_reward_model, load_tokenizer
    from dschat.models.policy import PolicyModel
    from dschat.models.references import Reference
    from dschat.online.setup import quiet_libraries
    from dschat.regularization import KLDivergence, PolicyRegularizer, SinkhornDivergence
    from dschat.rewards.reward_model import RewardModel

    quiet_libraries()
    assert config.reference is not None
    assert config.reward_model is not None
    assert config.output_dir is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(config.reference, "reference")
    data = load_data(config.data_path, "rl", "0,0,1", config.seed, f"{config.output_dir}/data")
    if len(data.eval) == 0:
        raise UserError(f"{config.data_path}: there are no held-out prompts to compare on.")
    prompts, _ = build_prompts(data.eval, tokenizer, config.max_prompt_seq_len)
    prompts = prompts[: config.num_prompts]

    def load(path: str, name: str) -> Any:
        return load_causal_lm(path, tokenizer, torch.float32, name).to(device).eval()

    plain = load(config.reference, "reference")
    reference = Reference(PolicyModel(plain, config.temperature), device)
    classifier = load_reward_model(config.reward_model, tokenizer, torch.float32, "reward_model")
    reward = RewardModel(classifier, tokenizer.pad_token_id, 64, device)
    regularizers: dict[str, PolicyRegularizer] = {
        "KL": KLDivergence("exact"),
        # The well-posed transport distance: the published potential is no distance, and at its
        # published epsilon it sees none (docs/regularisers.md).
        "Wasserstein": SinkhornDivergence(
            plain.get_input_embeddings().weight.detach(), epsilon=config.epsilon
        ),
    }
    reports = {}
    for pair in tqdm(config.policies, desc="evaluating", unit="policy"):
        name, folder = pair.split("=", 1)
        reports[name] = evaluate_policy(
            load(folder, "policies"),
            prompts,
            tokenizer,
            reference,
            reward,
            regularizers,
            config.max_answer_seq_len,
            config.temperature,
            config.seed,
        )
    return prompts, reports


def main() -> None:
    """Command line of `compare`."""
    picture = compare(parse_config(ComparisonConfig, description=__doc__))
    print(f"Picture: {picture.resolve()}")


if __name__ == "__main__":
    run_script(main)
