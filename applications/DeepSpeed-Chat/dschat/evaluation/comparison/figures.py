"""What the responses of several models say: means with intervals, differences, wins."""

from __future__ import annotations

import math
import statistics
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dschat.evaluation.comparison.pairing import Aligned, Rows
from dschat.evaluation.tables import distinct_n
from dschat.runtime.statistics import Estimate, mean_with_interval, pass_at_k
from dschat.settings.command_line import require

LETTERS = string.ascii_uppercase
WHOLE = ("tokens", "ended")

Columns = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Measure:
    """A number of every model.

    Attributes:
        of: each model's mean over prompts.
        differences: A's minus that of each other model, prompt by prompt; empty where the measure
            is not compared.
        share: shown as a percentage.
    """

    name: str
    of: list[Estimate]
    differences: list[Estimate]
    share: bool


@dataclass(frozen=True)
class Outcomes:
    """Shares of prompts for which A's reward is higher than the other model's, equal, lower."""

    wins: Estimate
    ties: Estimate
    losses: Estimate


@dataclass(frozen=True)
class Figures:
    """All figures; `outcomes` has an entry for every model but A."""

    names: list[str]
    prompts: int
    pairs: int
    unpaired: list[int]
    measures: list[Measure]
    outcomes: list[Outcomes]

    @property
    def pair_names(self) -> list[str]:
        """ "A - B", "A - C", ..."""
        return [f"A - {letter}" for letter in LETTERS[1 : len(self.names)]]

    def as_json(self) -> dict[str, Any]:
        """Plain values, models by letter; outcomes are A's against each letter, if there are more
        than two models."""
        letters = LETTERS[: len(self.names)].lower()
        two = len(letters) == 2
        keys = [*letters, *(["difference"] if two else map(str.lower, self.pair_names))]
        outcomes = [
            {
                name: {"share": found.mean, "low": found.low, "high": found.high}
                for name, found in vars(outcome).items()
            }
            for outcome in self.outcomes
        ]
        return {
            "names": dict(zip(letters, self.names, strict=True)),
            "prompts": self.prompts,
            "pairs": self.pairs,
            "unpaired": dict(zip(letters, self.unpaired, strict=True)),
            "measures": {
                m.name: {key: vars(e) for key, e in zip(keys, m.of + m.differences, strict=False)}
                for m in self.measures
            },
            **(outcomes[0] if two else dict(zip(letters[1:], outcomes, strict=True))),
        }


@dataclass(frozen=True)
class Measuring:
    """How figures are made: what is measured, and the bootstrap's seed and resamples.

    Attributes:
        pass_k: the k of pass@k. kinds: names of kinds of problems, which rows have as `kinds`.
    """

    seed: int = 42
    resamples: int = 9999
    pass_k: Sequence[int] = ()
    kinds: Sequence[str] = ()

    def compared(
        self, name: str, prompts: Sequence[str], columns: Columns, share: bool = False
    ) -> Measure:
        """A measure with intervals and differences; a prompt counts once, by its rows' mean."""
        values = [by_prompt(prompts, column) for column in columns]
        first, *others = values
        differences = [[x - y for x, y in zip(first, o, strict=True)] for o in others]
        return Measure(
            name,
            [mean_with_interval(v, self.seed, self.resamples, share) for v in values],
            [mean_with_interval(d, self.seed, self.resamples) for d in differences],
            share,
        )

    def share(self, prompts: Sequence[str], outcomes: Sequence[bool]) -> Estimate:
        """A share of prompts."""
        values = by_prompt(prompts, list(map(float, outcomes)))
        return mean_with_interval(values, self.seed, self.resamples, share=True)


def by_prompt(prompts: Sequence[str], values: Sequence[float]) -> list[float]:
    """The mean of each prompt's values, prompts in the order of their first.

    Responses to one prompt are not independent; prompts are what was drawn.
    """
    found: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        found.setdefault(prompt, []).append(value)
    return [math.fsum(each) / len(each) for each in found.values()]


def figures_of(
    aligned: Aligned,
    how: Measuring,
    rouge: Mapping[str, Columns] | None = None,
    greedy: Aligned | None = None,
) -> Figures:
    """Figures of the rewards and of whatever else all rows have.

    Args:
        rouge: further scores of all responses, by name and model.
        greedy: the greedy responses of the same models.
    """
    prompts, rewards = aligned.prompts, aligned.column("reward")
    measures = _scores(aligned, how)
    measures += [how.compared(name, prompts, each) for name, each in (rouge or {}).items()]
    if greedy is not None:
        name = _success(greedy)
        of = _score(greedy, name) if name else greedy.column("reward")
        measures.append(how.compared(f"{name or 'reward'}, greedy", greedy.prompts, of, bool(name)))
    measures += _of_kinds(greedy or aligned, how.kinds)
    measures += _pass_at(aligned, how.pass_k)
    for name in _names(aligned, "divergences"):
        rows = [[r for r in rows if name in r.get("divergences", {})] for rows in aligned.rows]
        measures.append(_plain(name, rows, lambda r, n=name: r["divergences"][n]))
    for name in WHOLE:
        if all(name in row for rows in aligned.rows for row in rows):
            measures.append(_plain(name, aligned.rows, lambda r, n=name: r[n], name == "ended"))
    variety = [distinct_n((row["response"] for row in rows), 2) for rows in aligned.rows]
    measures.append(Measure("distinct-2", [Estimate(v, None, None) for v in variety], [], False))
    measures += _answer_forms((greedy or aligned).rows)

    def outcome(which: Callable[[float, float], bool], other: Sequence[float]) -> Estimate:
        return how.share(prompts, [which(a, b) for a, b in zip(rewards[0], other, strict=True)])

    return Figures(
        aligned.names,
        len(set(prompts)),
        len(prompts),
        aligned.unpaired,
        measures,
        [
            Outcomes(
                outcome(lambda a, b: a > b, other),
                outcome(lambda a, b: a == b, other),
                outcome(lambda a, b: a < b, other),
            )
            for other in rewards[1:]
        ],
    )


def _names(aligned: Aligned, field: str) -> list[str]:
    """The names of a field of named numbers, such as `scores`, that every model has."""
    found = [dict.fromkeys(n for row in rows for n in row.get(field, {})) for rows in aligned.rows]
    return [name for name in found[0] if all(name in names for names in found)]


def _score(aligned: Aligned, name: str) -> Columns:
    return [[row["scores"][name] for row in rows] for rows in aligned.rows]


def _scores(aligned: Aligned, how: Measuring) -> list[Measure]:
    """The reward, and each of the rows' further `scores`; a score of true and false is a share."""
    prompts, rewards, success = aligned.prompts, aligned.column("reward"), _success(aligned)
    measures = []
    if not success or _score(aligned, success) != rewards:
        measures.append(how.compared("reward", prompts, rewards))
    for name in _names(aligned, "scores"):
        columns = _score(aligned, name)
        share = all(isinstance(value, bool) for column in columns for value in column)
        if not (name == success and 1 in how.pass_k):  # pass@1 is the same
            measures.append(how.compared(name, prompts, columns, share))
    return measures


def _success(aligned: Aligned) -> str | None:
    """The score that says whether a response is right: the last of true and false."""
    for name in _names(aligned, "scores")[::-1]:
        if all(isinstance(value, bool) for column in _score(aligned, name) for value in column):
            return name
    return None


def _of_kinds(aligned: Aligned, kinds: Sequence[str]) -> list[Measure]:
    """The share of right responses to each kind of problem."""
    name = _success(aligned)
    require(
        not kinds or name is not None,
        "--kinds needs a score that says right or wrong of every response (checked answers, say).",
    )
    return [
        _plain(
            kind,
            [[row for row in rows if kind in row["kinds"]] for rows in aligned.rows],
            lambda row: row["scores"][name],
            share=True,
        )
        for kind in kinds
    ]


def _pass_at(aligned: Aligned, ks: Sequence[int]) -> list[Measure]:
    """pass@k over each prompt's responses."""
    name = _success(aligned)
    require(
        not ks or name is not None,
        "--pass_k needs a score that says right or wrong (0 or 1) of every response, such as "
        "checked answers or the programs' tests.",
    )
    measures = []
    for k in ks:
        values = []
        for rows in aligned.rows:
            right: dict[str, list[bool]] = {}
            for row in rows:
                right.setdefault(row["prompt"], []).append(row["scores"][name])
            fewest = min(map(len, right.values()))
            require(k <= fewest, f"--pass_k {k}: a prompt has {fewest} responses only. Lower it.")
            values.append(statistics.fmean(pass_at_k(len(r), sum(r), k) for r in right.values()))
        of = [Estimate(value, None, None) for value in values]
        measures.append(Measure(f"pass@{k}", of, [], share=True))
    return measures


def _answer_forms(models: Sequence[Rows]) -> list[Measure]:
    """The share of responses whose answer stands in each form that any of them has."""
    forms = dict.fromkeys(row["form"] for rows in models for row in rows if "form" in row)
    return [
        _plain(f"answer: {form or 'none'}", models, lambda r, f=form: r.get("form") == f, True)
        for form in forms
    ]


def _plain(
    name: str, models: Sequence[Rows], value: Callable[..., float], share: bool = False
) -> Measure:
    """The mean over all of a model's rows, without an interval."""
    means = [statistics.fmean(map(value, rows)) for rows in models]
    return Measure(name, [Estimate(mean, None, None) for mean in means], [], share)
