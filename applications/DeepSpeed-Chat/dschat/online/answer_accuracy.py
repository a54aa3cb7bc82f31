"""How often a policy answers right: greedily, and in k tries (pass@k).

Several ranks evaluate a share of the prompts each with `prompt_results(..., rank, world_size)`;
`summarise` takes all their results together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.rewards.math_answers import answered_correctly
from dschat.rewards.maths.extraction import find_answer
from dschat.rollout.sampler import Sampler
from dschat.runtime.statistics import pass_at_k, wilson_interval
from dschat.settings.rewards import FORMS


@dataclass(frozen=True)
class PromptResult:
    """One prompt's responses, counted.

    Attributes:
        index: of the prompt among all prompts.
        response: the greedy response.
        correct, length, ended: of the greedy response; tokens include the end token.
        samples: how many responses were sampled; and of them
        sampled_correct, sampled_tokens, sampled_ended: those right, all their tokens, those that
            ended by themselves.
        form: the form in which the greedy response has its answer; None: it has none.
    """

    index: int
    response: str
    correct: bool
    length: int
    ended: bool
    samples: int = 0
    sampled_correct: int = 0
    sampled_tokens: int = 0
    sampled_ended: int = 0
    form: str | None = None


@dataclass(frozen=True)
class AccuracyReport:
    """What `summarise` found.

    Attributes:
        prompts: how many. correct: how many of them were answered right greedily.
        accuracy: their share; interval: its 95 % Wilson interval.
        pass_at: by k, the mean over prompts of `pass_at_k`. samples: responses sampled a prompt.
        length, ended: of greedy responses, mean tokens and the share that ended by themselves.
        sampled_length, sampled_ended: of sampled responses; None where none were sampled.
        found_by: by the form of an answer (`maths.extraction`) or "none", the share of greedy
            responses whose answer was found by it; empty where another judge decides.
    """

    prompts: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    pass_at: dict[int, float]
    samples: int
    length: float
    ended: float
    sampled_length: float | None
    sampled_ended: float | None
    found_by: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Flat numbers by name, for a log; pass@k is `pass_at_k` with the number for k."""
        flat = asdict(self)
        flat["accuracy_low"], flat["accuracy_high"] = flat.pop("interval")
        flat.update({f"pass_at_{k}": value for k, value in flat.pop("pass_at").items()})
        flat.update({f"found_by_{form}": share for form, share in flat.pop("found_by").items()})
        return {name: value for name, value in flat.items() if value is not None}

    def found_by_text(self) -> str:
        """The forms that found an answer, for a line of a log."""
        shares = [f"{form} {share:.0%}" for form, share in self.found_by.items() if share]
        return ", ".join(shares) or "no form"


def prompt_results(
    model: Any,
    prompts: Sequence[PromptExample],
    sampler: Sampler,
    samples: int = 0,
    rank: int = 0,
    world_size: int = 1,
    forms: Sequence[str] = FORMS,
) -> list[PromptResult]:
    """Answer prompts rank, rank + world_size, ... greedily and `samples` times by sampling.

    A sampled response depends on the weights, the seed, and the prompt's index among all prompts,
    not on the batch size or the number of ranks (up to rounding).

    Args:
        model: an `AutoModelForCausalLM`; its training mode is restored afterwards.
        prompts: all ranks' prompts, the same everywhere; see `build_prompts`.
        forms: of answers that are looked for, in this order.

    Returns:
        One result per prompt of this rank, in order.

    Raises:
        UserError: there are no prompts.
    """
    if not prompts:
        raise UserError("There are no prompts to measure accuracy on; expected at least one.")
    own = slice(rank, None, world_size)
    draws = [None, *(sampler.numbers(len(prompts), step)[own] for step in range(samples))]
    was_training = model.training
    try:
        answers = [sampler.sample(model, prompts[own], numbers) for numbers in draws]
    finally:
        model.train(was_training)
    return [
        _count(index, prompts[index].example, responses, sampler, forms)
        for index, *responses in zip(range(len(prompts))[own], *answers, strict=True)
    ]


def _count(
    index: int,
    example: dict[str, Any],
    responses: list[list[int]],
    sampler: Sampler,
    forms: Sequence[str],
) -> PromptResult:
    """The first response is the greedy one."""
    texts = sampler.decode(responses)
    correct = [answered_correctly(text, example, forms) for text in texts]
    ended = [sampler.ended(response) for response in responses]
    return PromptResult(
        index=index,
        response=texts[0],
        correct=correct[0],
        length=len(responses[0]),
        ended=ended[0],
        samples=len(responses) - 1,
        sampled_correct=sum(correct[1:]),
        sampled_tokens=sum(map(len, responses[1:])),
        sampled_ended=sum(ended[1:]),
        form=find_answer(texts[0], forms)[1],
    )


def summarise(
    results: Sequence[PromptResult], ks: Sequence[int] = (), forms: Sequence[str] = ()
) -> AccuracyReport:
    """The report over prompts; `results` of several ranks may come in any order.

    Args:
        forms: of answers, whose shares are to be reported.

    Raises:
        UserError: there are no results, or a k exceeds the number of samples.
    """
    if not results:
        raise UserError("There are no results to summarise; expected one prompt's or more.")
    samples = min(result.samples for result in results)
    for k in ks:
        if not 1 <= k <= samples:
            raise UserError(
                f"pass@{k} cannot be measured with {samples} samples a prompt; expected k between "
                "1 and the number of samples. Sample more, or give a smaller k."
            )
    n, correct = len(results), sum(result.correct for result in results)
    sampled = sum(result.samples for result in results)
    return AccuracyReport(
        prompts=n,
        correct=correct,
        accuracy=correct / n,
        interval=wilson_interval(correct, n),
        pass_at={k: fmean(pass_at_k(r.samples, r.sampled_correct, k) for r in results) for k in ks},
        samples=samples,
        length=fmean(result.length for result in results),
        ended=fmean(result.ended for result in results),
        sampled_length=sum(r.sampled_tokens for r in results) / sampled if sampled else None,
        sampled_ended=sum(r.sampled_ended for r in results) / sampled if sampled else None,
        found_by={
            form or "none": sum(result.form == form for result in results) / n
            for form in ((*forms, None) if forms else ())
        },
    )
