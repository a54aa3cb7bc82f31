"""A reward model with a tokenizer of its own: it scores texts, not another model's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoConfig, AutoTokenizer

from dschat.data.control_tokens import spell_control_tokens
from dschat.data.prompts import PromptExample
from dschat.data.text import (
    Prompt,
    encode_pair,
    is_plain,
    prompt_ids,
    render_chat,
    with_response,
    without_system,
)
from dschat.models.loading import load_pretrained, load_reward_model
from dschat.models.score_reading import check_not_v_head, reading
from dschat.rewards.reward_model import RewardModel
from dschat.runtime.distributed import log_main
from dschat.settings.command_line import require

PROMPTS_COMPARED = 100


class TextReward:
    """Scores prompt + response by an `AutoModelForSequenceClassification(num_labels=1)`.

    A text is prompt, response and end token, as step 2 trains. Only conversations for a reward
    model that was not made here are written with its own chat template, the response as the
    assistant's turn and with whatever the template puts after it.

    Args:
        path: model folder or hub name. flag: the flag that gave it.
        dtype, device: of the model. batch_size: texts in one forward pass.
        leading_pads: see `prompt_ids`.

    Raises:
        UserError: there is no such model, or its config says that it is no reward model.
    """

    def __init__(
        self,
        path: str,
        flag: str,
        dtype: torch.dtype,
        device: torch.device,
        batch_size: int,
        leading_pads: int = 0,
    ) -> None:
        self.path, self.flag = path, flag
        self.dtype, self.device, self.batch_size = dtype, device, batch_size
        self.leading_pads = leading_pads
        config = load_pretrained(AutoConfig, path, flag)
        check_not_v_head(path, flag)
        kinds = ", ".join(config.architectures or [])
        require(
            not kinds or ("Classification" in kinds and config.num_labels == 1),
            f"--{flag} {path} ({kinds}, {config.num_labels} labels) is no reward model: it has no "
            "reward head. Expected a sequence classifier of one label, such as the output of step "
            "2 (output_dir/step_N).",
        )
        self.tokenizer = load_pretrained(AutoTokenizer, path, flag)
        self.to_end_token = reading(path, config, self.tokenizer.eos_token_id).to_end_token
        if self.tokenizer.pad_token is None:
            # Padding is masked, and a text's last token is found by its length: any token will do.
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token

    def encode(self, prompt: Prompt, response: str) -> list[int]:
        """Token ids of the whole conversation: what every script scores.

        Raises:
            UserError: the prompt holds messages and this tokenizer has no chat template.
        """
        tokenizer = self.tokenizer
        written = None if self.to_end_token or is_plain(prompt) else self._written(prompt, response)
        if written is not None:
            return written
        if tokenizer.eos_token is None and isinstance(prompt, str):
            return list(tokenizer(prompt + response)["input_ids"])
        pair = encode_pair(
            tokenizer, prompt, response, tokenizer.eos_token, 2**31, self.leading_pads
        )
        return pair["input_ids"]

    def _written(self, messages: Any, response: str) -> list[int] | None:
        """The conversation by the whole chat template; None: there is none, or it refuses.

        Control tokens that a message or the response spells are ordinary text, as they were when
        the policy wrote them.
        """
        tokenizer = self.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return None
        spelt = spell_control_tokens(tokenizer, [*(m["content"] for m in messages), response])
        for before in (messages, without_system(messages)):
            whole = with_response(before, response)
            try:
                if spelt:
                    as_text = {"tokenize": True, "return_dict": False}
                    return list(
                        render_chat(whole, tokenizer, sanitize_control_tokens=True, **as_text)
                    )
                text = render_chat(whole, tokenizer)
            except (TemplateError, ValueError):  # it may refuse the system's turn
                continue
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return None

    def reads_tokens(self, tokenizer: Any, prompts: Sequence[PromptExample]) -> bool:
        """Whether the reward model can read the policy's own tokens.

        Its tokenizer then has the same tokens and end, makes the same of the (first) prompts (a
        chat template may differ where the vocabulary does not), and writes nothing after the end
        token that the model was trained to be read at.
        """
        own = self.tokenizer
        if own.get_vocab() != tokenizer.get_vocab() or own.eos_token != tokenizer.eos_token:
            return False
        compared = prompts[:PROMPTS_COMPARED]
        talks = [p.conversation for p in compared]
        if any(not is_plain(talk) for talk in talks) and not own.chat_template:
            return True  # it cannot write them at all: the tokens are what it has
        if prompt_ids(own, talks, self.leading_pads) != [p.ids for p in compared]:
            return False
        whole = [self.encode(talk, "Yes.") for talk in talks]
        end = own.eos_token_id
        return all(end not in ids or ids[-1] == end for ids in whole)

    def __call__(self, prompts: list[Prompt], responses: list[str]) -> list[float]:
        """One score per response; the model is loaded for this call.

        Raises:
            UserError: the folder is no reward model.
        """
        texts = [self.encode(p, r) for p, r in zip(prompts, responses, strict=True)]
        with self.loaded() as score:
            return score(texts)

    @contextmanager
    def loaded(self) -> Iterator[Callable[[list[list[int]]], list[float]]]:
        """Inside: the model is in memory, behind a function from token ids to one score a text.

        Raises:
            UserError: the folder is no reward model.
        """
        model = load_reward_model(self.path, self.tokenizer, self.dtype, self.flag)
        pad = self.tokenizer.pad_token_id
        reward = RewardModel(model, pad, self.batch_size, self.device)
        yield reward.scores
        if reward.cut:
            log_main(
                f"{reward.cut} texts are longer than the reward model's context; their last "
                f"{reward.limit} tokens were scored."
            )
