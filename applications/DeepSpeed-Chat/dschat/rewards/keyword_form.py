"""TRL's form of a reward function: keywords `prompts`, `completions` and a list for every column.

The rows' columns are passed as TRL's GRPOTrainer passes them; where the prompts are conversations,
prompts and completions are lists of messages. Of TRL's own keywords there is `completion_ids`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from dschat.errors import UserError

OWN = {"prompts", "completions", "completion_ids"}
OURS = {"responses", "examples"}
NO_COLUMNS = {"prompt", "completion", "prompt_ids", "response_ids", "conversation"}


def takes_keywords(function: Callable[..., Any], name: str) -> bool:
    """Whether a reward takes TRL's keywords; False: (prompts, responses, examples).

    Raises:
        UserError: it takes neither.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return False
    names = set(signature.parameters)
    if names & {"completions", "completion_ids"}:
        return True
    try:
        signature.bind([], [], [])
    except TypeError:
        any_keyword = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        if any_keyword and not names & OURS:
            return True
        raise UserError(
            f"The reward function {name}{signature} takes neither (prompts, responses, examples) "
            "nor TRL's keywords (prompts, completions, **columns). Give it one of these forms."
        ) from None
    return False


def keywords_for(
    function: Callable[..., Any],
    name: str,
    prompts: list[str],
    responses: list[str],
    examples: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The arguments of a call in TRL's form, those that the function takes.

    Raises:
        UserError: it needs a column that no row has; names those that there are. Or a column of
            the data has the name of one of TRL's keywords.
    """
    if own := OWN & set().union(*examples):
        raise UserError(
            f"The reward function {name} takes TRL's keywords, and the data have a column of the "
            f"name {sorted(own)[0]!r}, which is one of them. Rename the column, or write the "
            "function with (prompts, responses, examples)."
        )
    talks = [e.get("conversation") for e in examples]
    chats = [
        isinstance(talk, list) and not (len(talk) == 1 and talk[0]["role"] == "verbatim")
        for talk in talks
    ]
    columns = list(dict.fromkeys(c for e in examples for c in e if c not in NO_COLUMNS | OWN))
    given: dict[str, Any] = {column: [e.get(column) for e in examples] for column in columns}
    given["prompts"] = [t if c else p for p, t, c in zip(prompts, talks, chats, strict=True)]
    given["completions"] = [
        [{"role": "assistant", "content": r}] if chat else r
        for r, chat in zip(responses, chats, strict=True)
    ]
    given["completion_ids"] = [e.get("response_ids") for e in examples]
    parameters = inspect.signature(function).parameters.values()
    for p in parameters:
        named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if named and p.default is p.empty and p.name not in given:
            raise UserError(
                f"The reward function {name} needs the column {p.name!r}, and the prompts' rows "
                f"have {', '.join(columns) or 'none'}. Add it to the data."
            )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return given
    return {p.name: given[p.name] for p in parameters if p.name in given}
