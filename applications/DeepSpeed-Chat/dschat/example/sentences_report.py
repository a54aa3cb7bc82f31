"""The sentence task before and after training, on held-out words: a table, samples, a picture.

    python -m dschat.example.sentences_report --before MODEL --after RUN --dataset DIR \
        --output_dir DIR

Both models answer the same prompts with the same random numbers at temperature 1, and greedily.
RUN is the output folder of `dschat.example.sentences_grpo`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dschat.example.sentence_check import faults
from dschat.runtime.files import atomic_write_text
from dschat.runtime.script import run_script
from dschat.settings.command_line import flag, parse_config, require

if TYPE_CHECKING:
    from tqdm import tqdm

    from dschat.data.prompts import PromptExample
    from dschat.models.references import Reference

OUTPUT_NAME = "sentences"
SHOWN = 8


@dataclass
class SentencesReportConfig:
    """What to compare, and on what."""

    before: str | None = flag(None, "The model that training started from. Required.")
    after: str | None = flag(None, "The output folder of the training run. Required.")
    dataset: str | None = flag(None, "The folder with train.jsonl and test.jsonl. Required.")
    output_dir: str | None = flag(
        None, f"Folder for {OUTPUT_NAME}.json, {OUTPUT_NAME}.txt and {OUTPUT_NAME}.png. Required."
    )
    max_completion_length: int = flag(28, "Responses stop at this many tokens.")
    batch_size: int = flag(50, "Prompts at a time.")
    seed: int = flag(1, "Seed of sampling.")

    def validate(self) -> None:
        """Refuse what is missing; raises `UserError`."""
        for name in ("before", "after", "dataset", "output_dir"):
            require(bool(getattr(self, name)), f"Give --{name}; --help says what it is.")
        for name in ("max_completion_length", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} {value}: expected 1 or more.")


@dataclass(frozen=True)
class SentencesReport:
    """One model on the held-out words.

    Attributes:
        prompts: how many. success, interval: share of sampled responses without a fault, and its
            95 % Wilson interval. greedy, greedy_interval: the same of greedy responses.
        faults: how many sampled responses have each fault.
        kl: from the start model, exact over the vocabulary, summed over a response's tokens; mean.
        length, distinct_2: tokens per sampled response; share of different word bigrams in all.
        words, responses: of each prompt its word and the sampled response.
    """

    prompts: int
    success: float
    interval: tuple[float, float]
    greedy: float
    greedy_interval: tuple[float, float]
    faults: dict[str, int]
    kl: float
    length: float
    distinct_2: float
    words: list[str]
    responses: list[str]


def report_on(
    model: Any,
    reference: Reference,
    prompts: list[PromptExample],
    tokenizer: Any,
    config: SentencesReportConfig,
    bar: tqdm[Any],
) -> SentencesReport:
    """Let a model answer, by sampling and greedily, and measure it; two steps of the bar."""
    from dschat.evaluation.policies import evaluate_policy
    from dschat.example.sentence_check import SentenceReward, succeeded
    from dschat.online.answer_accuracy import prompt_results, summarise
    from dschat.regularization import KLDivergence
    from dschat.rollout.generation import GenerationSettings
    from dschat.rollout.sampler import Sampler
    from dschat.runtime.statistics import wilson_interval

    length, batch = config.max_completion_length, config.batch_size
    sampled = evaluate_policy(
        model,
        prompts,
        tokenizer,
        reference,
        SentenceReward(),
        {"kl": KLDivergence("exact")},
        length,
        1.0,
        config.seed,
        batch,
    )
    bar.update()
    sampler = Sampler(tokenizer, GenerationSettings.of(tokenizer, length, 1.0), batch_size=batch)
    greedy = summarise(prompt_results(model, prompts, sampler, is_correct=succeeded))
    bar.update()
    words = [prompt.example["word"] for prompt in prompts]
    found = [faults(r, w) for r, w in zip(sampled.responses, words, strict=True)]
    n, right = len(prompts), sum(not f for f in found)
    return SentencesReport(
        prompts=n,
        success=right / n,
        interval=wilson_interval(right, n),
        greedy=greedy.accuracy,
        greedy_interval=greedy.interval,
        faults={name: sum(name in f for f in found) for name in sorted(set().union(*found))},
        kl=sampled.divergences["kl"],
        length=sampled.length,
        distinct_2=sampled.distinct_2,
        words=words,
        responses=sampled.responses,
    )


def compare(config: SentencesReportConfig) -> dict[str, SentencesReport]:
    """The reports of both models."""
    import torch
    from tqdm import tqdm

    from dschat.data.load import load_data
    from dschat.data.prompts import build_prompts
    from dschat.models.loading import load_causal_lm, load_tokenizer
    from dschat.models.policy import PolicyModel
    from dschat.models.references import Reference
    from dschat.online.setup import quiet_libraries

    quiet_libraries()
    assert config.before is not None
    assert config.after is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(config.before, "before")
    data = load_data([str(config.dataset)], "rl", "0,0,1", 1, f"{config.output_dir}/data")
    prompts = build_prompts(data.eval, tokenizer, 512)[0]
    start = load_causal_lm(config.before, tokenizer, torch.float32, "before").to(device)
    reference = Reference(PolicyModel(start, 1.0), device)
    trained = load_causal_lm(config.after, tokenizer, torch.float32, "after").to(device)
    models = {"before": start, "after": trained}
    with tqdm(total=2 * len(models), desc="answering", unit="pass") as bar:
        return {
            name: report_on(model, reference, prompts, tokenizer, config, bar)
            for name, model in models.items()
        }


def table(reports: dict[str, SentencesReport]) -> str:
    """A line for each model."""
    from dschat.evaluation.comparison_output import text_table

    def share(value: float, interval: tuple[float, float]) -> str:
        return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"

    rows = [
        [
            name,
            share(r.success, r.interval),
            share(r.greedy, r.greedy_interval),
            f"{r.kl:.2f}",
            f"{r.length:.1f}",
            f"{r.distinct_2:.3f}",
        ]
        for name, r in reports.items()
    ]
    header = ["model", "success, sampled", "success, greedy", "KL", "tokens", "distinct-2"]
    return text_table(header, rows)


def samples(reports: dict[str, SentencesReport], count: int) -> str:
    """The first prompts' sampled responses side by side; a cross marks those with a fault."""
    first = next(iter(reports.values()))
    lines = []
    for i in range(min(count, first.prompts)):
        lines.append(first.words[i])
        for name, report in reports.items():
            wrong = faults(report.responses[i], first.words[i])
            mark = f"✗ {', '.join(wrong)}" if wrong else "✓"
            lines.append(f"  {name:<7} {report.responses[i].strip()!r} {mark}")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], reports: dict[str, SentencesReport], path: Path) -> None:
    """Success and KL over the steps of training, and success on held-out words, as a PNG."""
    from dschat.evaluation.style import drawing, save_picture

    steps = [row["step"] for row in rows if "reward/success" in row]
    with drawing() as plt:
        figure, (success, divergence, bars) = plt.subplots(1, 3, figsize=(11, 3.2))
        success.plot(steps, [r["reward/success"] for r in rows if "reward/success" in r])
        success.set(title="success on training words", xlabel="step", ylim=(0, 1))
        divergence.plot(steps, [r["divergence_per_response"] for r in rows if "reward" in r])
        divergence.set(title="KL from the start model per response", xlabel="step")
        names = list(reports)
        values = [r.success for r in reports.values()]
        low = [r.success - r.interval[0] for r in reports.values()]
        high = [r.interval[1] - r.success for r in reports.values()]
        bars.bar(names, values, yerr=[low, high], capsize=4, width=0.5, color=["grey", "C0"])
        bars.set(title="success on held-out words, 95 % interval", ylim=(0, 1))
        for axis in (success, divergence, bars):
            axis.grid(alpha=0.3)
        figure.tight_layout()
        save_picture(figure, path)


def main() -> None:
    """Compare, print, write and draw."""
    config = parse_config(SentencesReportConfig, description=__doc__)
    from dschat.evaluation.comparison_output import read_metrics

    assert config.after is not None
    rows = read_metrics(config.after)
    reports = compare(config)
    output = Path(str(config.output_dir)) / OUTPUT_NAME
    shown = table(reports)
    print(shown)
    print(samples(reports, SHOWN))
    everything = samples(reports, next(iter(reports.values())).prompts)
    atomic_write_text(output.with_suffix(".txt"), f"{shown}\n{everything}\n")
    result = {name: asdict(report) for name, report in reports.items()}
    atomic_write_text(output.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    draw(rows, reports, output.with_suffix(".png"))
    print(f"Picture: {output.with_suffix('.png').resolve()}")


if __name__ == "__main__":
    run_script(main)
