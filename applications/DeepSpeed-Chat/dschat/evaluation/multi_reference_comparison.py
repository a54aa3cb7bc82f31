"""Several references and the policies trained near them: a table and a picture.

    python -m dschat.evaluation.multi_reference_comparison --references A=runs/a B=runs/b \
        --policies RKL=runs/rkl FKL=runs/fkl --runs RKL=runs/rkl FKL=runs/fkl \
        --dataset runs/data --kinds "additions=+" "subtractions=-" --output_dir runs

Every model answers the test problems greedily and by sampling; the divergences are exact sums over
the vocabulary at every token of sampled responses of the model itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dschat.runtime.files import atomic_write_text, explain_write_errors
from dschat.runtime.script import run_script
from dschat.settings.answers import FORMS, check_forms
from dschat.settings.command_line import flag, parse_config, require

if TYPE_CHECKING:
    from dschat.evaluation.multi_reference_report import ModelReport

OUTPUT_NAME = "multi_reference_comparison"


@dataclass
class MultiReferenceComparisonConfig:
    """What to compare, and on what."""

    references: list[str] = flag([], "NAME=FOLDER of each reference. Required.")
    policies: list[str] = flag([], "NAME=FOLDER of each trained policy. Required.")
    runs: list[str] = flag([], "NAME=FOLDER of the runs whose metrics.jsonl are plotted.")
    dataset: list[str] = flag(
        [], "gsm8k, or local files or folders with the columns question and answer. Required."
    )
    kinds: list[str] = flag(
        [], "NAME=TEXT: accuracy also on those problems whose written answer contains the text."
    )
    num_prompts: int | None = flag(None, "At most so many test problems; unset: all.")
    max_prompt_length: int = flag(512, "Longer prompts are left out.")
    max_completion_length: int = flag(256, "Responses stop at this many tokens.")
    temperature: float = flag(1.0, "Of sampled responses and of the divergences.")
    pass_k: list[int] = flag([1, 4], "The k of pass@k; the largest is how many are sampled.")
    answer_extraction: list[str] = flag(
        list(FORMS),
        f"Where answers are looked for, the first form that a response has: {', '.join(FORMS)}.",
    )
    few_shot: int = flag(
        0, "Worked examples before every question, from the training part; not evaluated on."
    )
    batch_size: int = flag(100, "Problems at a time.")
    seed: int = flag(1234, "Seed of sampling, the same random numbers for all models.")
    output_dir: str | None = flag(
        None, f"Folder for {OUTPUT_NAME}.json and {OUTPUT_NAME}.png. Required."
    )

    def validate(self) -> None:
        """Refuse what is missing or cannot be; raises `UserError`."""
        for name in ("references", "policies", "dataset", "output_dir"):
            require(bool(getattr(self, name)), f"Give --{name}; --help says what it is.")
        for name in ("references", "policies", "runs", "kinds"):
            for pair in getattr(self, name):
                require(all(pair.partition("=")), f"--{name} {pair!r}: expected NAME=VALUE.")
        names = [pair.split("=", 1)[0] for pair in (*self.references, *self.policies)]
        require(
            len(set(names)) == len(names),
            f"Two models have one name: {', '.join(names)}. Give each its own.",
        )
        for name in ("num_prompts", "batch_size", "max_completion_length"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: expected 1 or more.")
        check_forms(self.answer_extraction)
        require(self.few_shot >= 0, f"--few_shot {self.few_shot}: expected 0 or more.")
        require(
            bool(self.pass_k) and min(self.pass_k) >= 1,
            f"--pass_k {self.pass_k}: expected one or more numbers from 1.",
        )


def compare(config: MultiReferenceComparisonConfig) -> Path:
    """Evaluate every model, print the table, draw the picture; returns the picture's path."""
    from dschat.evaluation.comparison_output import read_metrics
    from dschat.evaluation.multi_reference_output import format_reports, plot_reports

    assert config.output_dir is not None
    runs = {name: read_metrics(folder) for name, folder in _pairs(config.runs).items()}
    reports = _evaluate(config)
    print(format_reports(reports))
    output = Path(config.output_dir)
    result = {name: asdict(report) for name, report in reports.items()}
    atomic_write_text(output / f"{OUTPUT_NAME}.json", json.dumps(result, indent=1))
    picture = output / f"{OUTPUT_NAME}.png"
    with explain_write_errors(picture):
        plot_reports(runs, reports, picture)
    return picture


def _pairs(pairs: list[str]) -> dict[str, str]:
    """NAME=VALUE by name."""
    return dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]


def _evaluate(config: MultiReferenceComparisonConfig) -> dict[str, ModelReport]:
    import torch
    from tqdm import tqdm
    from transformers import AutoConfig, AutoTokenizer

    from dschat.data.load import load_data
    from dschat.data.prompts import build_prompts
    from dschat.data.schemas.gsm8k import with_worked_examples
    from dschat.evaluation.multi_reference_report import report_on
    from dschat.models.loading import (
        check_same_vocabulary,
        load_causal_lm,
        load_pretrained,
        load_tokenizer,
    )
    from dschat.models.output_layer import tokens_of
    from dschat.models.policy import PolicyModel
    from dschat.models.references import Reference
    from dschat.online.setup import quiet_libraries

    quiet_libraries()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reference_folders, policy_folders = _pairs(config.references), _pairs(config.policies)
    tokenizer = load_tokenizer(next(iter(reference_folders.values())), "references")
    data = load_data(config.dataset, "rl", "0,0,1", config.seed, f"{config.output_dir}/data")
    rows = data.eval
    if config.few_shot:
        rows = with_worked_examples(data.train, rows, config.few_shot)[1]
    prompts, _ = build_prompts(rows, tokenizer, config.max_prompt_length)

    def load(folder: str, name: str) -> PolicyModel:
        model = load_causal_lm(folder, tokenizer, torch.float32, name).to(device)
        return PolicyModel(model, config.temperature).eval()

    references = {
        name: Reference(load(folder, "references"), device)
        for name, folder in reference_folders.items()
    }
    first, *others = [*reference_folders.values(), *policy_folders.values()]
    for folder in others:
        other = load_pretrained(AutoTokenizer, folder, "policies")
        check_same_vocabulary(tokenizer, other, first, folder)
    configs = [load_pretrained(AutoConfig, f, "policies") for f in (first, *others)]
    # The same tokens for everyone, whoever comes first.
    rows = (config.get_text_config().vocab_size for config in configs)
    width = min(tokens_of(tokenizer), *rows)
    for reference in references.values():
        reference.limit_vocabulary(width)
    reports = {}
    for name in tqdm([*references, *policy_folders], desc="evaluating", unit="model"):
        if name in references:
            policy = references[name].policy
        else:
            policy = load(policy_folders[name], "policies")
        policy.limit_vocabulary(width)
        reports[name] = report_on(
            policy,
            references,
            prompts[: config.num_prompts],
            _pairs(config.kinds),
            tokenizer,
            config.max_completion_length,
            config.pass_k,
            config.seed,
            config.batch_size,
            config.answer_extraction,
        )
    return reports


def main() -> None:
    """Command line of `compare`."""
    picture = compare(parse_config(MultiReferenceComparisonConfig, description=__doc__))
    print(f"Picture: {picture.resolve()}")


if __name__ == "__main__":
    run_script(main)
