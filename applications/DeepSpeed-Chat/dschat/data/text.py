"""From a prompt and a response to token ids: the same ids in SFT, reward modelling and RL."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from dschat.data.clock import at_this_time
from dschat.data.control_tokens import response_ids, spell_control_tokens
from dschat.errors import UserError

logger = logging.getLogger(__name__)

Message: TypeAlias = dict[str, str]
Prompt: TypeAlias = str | list[Message]

# In a blend of plain and chat sources the prompt column holds messages. A plain prompt is then one
# message of this role, which stands for its text as it is.
VERBATIM_ROLE = "verbatim"


def verbatim(prompt: Prompt) -> list[Message]:
    """The prompt as messages; a plain text becomes one message that is rendered as it is."""
    return [{"role": VERBATIM_ROLE, "content": prompt}] if isinstance(prompt, str) else prompt


def is_plain(prompt: Prompt) -> bool:
    """Whether a prompt is rendered as it is, without a chat template."""
    return isinstance(prompt, str) or (len(prompt) == 1 and prompt[0]["role"] == VERBATIM_ROLE)


def conversation_text(prompt: Prompt, tokenizer: Any) -> str:
    """The text a model reads before its response.

    A string passes through. Messages are rendered with the tokenizer's chat template and the
    opening of the assistant's turn; if the last message is the assistant's, it is left open for
    the response to continue it (transformers' `continue_final_message`). Where a template refuses
    the system role (Gemma's does), the system text is put before the first user message.

    Raises:
        UserError: the tokenizer has no chat template, or its template refuses the messages.
    """
    if is_plain(prompt):
        return prompt if isinstance(prompt, str) else prompt[0]["content"]
    assert not isinstance(prompt, str)
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            f"This data set holds chat messages, and the tokenizer {tokenizer.name_or_path!r} has "
            "no chat template to write them with. Use an instruction-tuned model (its tokenizer "
            "has one), add a chat_template.jinja to the model folder, or give data whose prompts "
            "are plain text."
        )
    return _in_template(prompt, tokenizer)


def _in_template(prompt: list[Message], tokenizer: Any, **options: Any) -> Any:
    """Messages in the chat template, as `conversation_text` says; `options` as in `render_chat`."""
    from jinja2.exceptions import TemplateError

    refusal: Exception
    try:
        return _render(prompt, tokenizer, **options)
    except (TemplateError, ValueError) as error:
        refusal = error
        merged = without_system(prompt)
        try:
            if merged != prompt:
                return _render(merged, tokenizer, **options)
        except (TemplateError, ValueError) as second:
            refusal = second
        roles = ", ".join(message["role"] for message in prompt)
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} refuses a conversation with the "
            f"roles {roles}: {refusal}. Use another model or other data."
        ) from refusal


def warn_of_missing_template(rows: Any, tokenizer: Any) -> None:
    """Warn, on rank 0, where a tokenizer has a chat template and the prompts are plain texts.

    Args:
        rows: what `load_data` gives; in a blend with chats no prompt is a text any more.
    """
    if len(rows) == 0 or not getattr(tokenizer, "chat_template", None):
        return
    if int(os.environ.get("RANK", "0")) == 0 and isinstance(rows[0]["prompt"], str):
        logger.warning(
            "the prompts are plain texts and are read as they are, without the chat template of "
            "%r. A model that was tuned for chat answers better with it: --apply_chat_template. "
            "Use the same in every step of a run.",
            tokenizer.name_or_path,
        )


def render_chat(messages: list[Message], tokenizer: Any, **options: Any) -> Any:
    """The messages as a text in the tokenizer's chat template, which sees the run's time.

    Args:
        options: of transformers' `apply_chat_template`.

    Raises:
        jinja2.TemplateError, ValueError: the template refuses the messages.
    """
    options = {"tokenize": False, **at_this_time(tokenizer), **options}
    return tokenizer.apply_chat_template(messages, **options)


def _render(messages: list[Message], tokenizer: Any, **options: Any) -> Any:
    open_end = messages[-1]["role"] == "assistant"
    turn = {"add_generation_prompt": not open_end, "continue_final_message": open_end}
    return render_chat(messages, tokenizer, **turn, **options)


def with_response(prompt: list[Message], response: str) -> list[Message]:
    """The whole conversation: the response is the assistant's message, or continues its last."""
    if prompt[-1]["role"] != "assistant":
        return [*prompt, {"role": "assistant", "content": response}]
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + response}]


def without_system(messages: list[Message]) -> list[Message]:
    """The messages with the system's text before the first user's; themselves where it has none."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def end_token_id(tokenizer: Any, end_token: str) -> int:
    """The id of the end-of-conversation token.

    Raises:
        UserError: it is not one token of this tokenizer.
    """
    ids = tokenizer(end_token, add_special_tokens=False)["input_ids"]
    # The vocabulary is not asked: building that dictionary for every row takes hours.
    if len(ids) != 1 or tokenizer.convert_ids_to_tokens(ids[0]) != end_token:
        raise UserError(
            f"--end_of_conversation_token {end_token!r} is not a token of "
            f"{tokenizer.name_or_path!r}: it becomes {len(ids)} tokens, so generation could not "
            f"stop at it. Use the tokenizer's own ({tokenizer.eos_token!r}) or --add_eot_token."
        )
    return ids[0]


def prompt_ids(
    tokenizer: Any, prompts: Sequence[Prompt], num_padding_at_beginning: int = 0
) -> list[list[int]]:
    """Token ids of prompts, with the beginning-of-text token where the tokenizer adds one.

    A chat template writes its own special tokens: to those texts nothing is added, as everywhere
    in Hugging Face. No end token is ever added.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompts: texts or messages.
        num_padding_at_beginning: how many pad (or beginning-of-text) tokens every sequence starts
            with, as OPT models were trained; those that the tokenizer does not put there are added.

    Raises:
        UserError: see `conversation_text`; or pad tokens are asked for and there is no pad token.
    """
    texts = [conversation_text(prompt, tokenizer) for prompt in prompts]
    if not texts:
        return []
    own = tokenizer("", add_special_tokens=True)["input_ids"]
    bos = [tokenizer.bos_token_id] if own[:1] == [tokenizer.bos_token_id] else []
    rows = []
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not isinstance(prompt, str) and not is_plain(prompt):
            ids = _chat_ids(tokenizer, prompt, ids)
        begins = ids[:1] == bos or not is_plain(prompt)
        ids = list(ids) if begins else bos + list(ids)
        rows.append(_with_leading_pads(tokenizer, ids, num_padding_at_beginning))
    return rows


def _chat_ids(tokenizer: Any, prompt: list[Message], ids: list[int]) -> list[int]:
    """`ids` of the rendered messages, or others where contents spell control tokens."""
    if not spell_control_tokens(tokenizer, [message["content"] for message in prompt]):
        return ids
    return _in_template(
        prompt, tokenizer, tokenize=True, return_dict=False, sanitize_control_tokens=True
    )


def _with_leading_pads(tokenizer: Any, ids: list[int], count: int) -> list[int]:
    if count == 0:
        return ids
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"--num_padding_at_beginning {count} needs a pad token, and the tokenizer "
            f"{tokenizer.name_or_path!r} has none. Set it to 0 or give --pad_token."
        )
    leading = 0
    while leading < min(count, len(ids)) and ids[leading] in (
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
    ):
        leading += 1
    return [tokenizer.pad_token_id] * (count - leading) + ids


def encode_pair(
    tokenizer: Any,
    prompt: Prompt,
    response: str,
    end_token: str,
    max_seq_len: int,
    num_padding_at_beginning: int = 0,
) -> dict[str, list[int]]:
    """Token ids of prompt + response + end token, cut on the right to `max_seq_len`.

    Prompt and response are tokenised apart, so that the prompt has the ids it has in RL, whatever
    the response begins with. A response that is cut loses its end token: the model does not learn
    to stop in the middle. Control tokens that a response spells are ordinary text (see
    `dschat.data.control_tokens`).

    Returns:
        `input_ids`, and `completion_mask`: 1 on the response and the end token, 0 on the prompt.
        All 0 if the prompt alone fills `max_seq_len`: leave such a row out.

    Raises:
        UserError: see `prompt_ids` and `end_token_id`.
    """
    (prefix,) = prompt_ids(tokenizer, [prompt], num_padding_at_beginning)
    completion = response_ids(tokenizer, response)
    completion.append(end_token_id(tokenizer, end_token))
    input_ids = (prefix + completion)[:max_seq_len]
    mask = ([0] * len(prefix) + [1] * len(completion))[:max_seq_len]
    return {"input_ids": input_ids, "completion_mask": mask}
