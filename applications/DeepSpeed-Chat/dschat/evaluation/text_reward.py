"""A reward model with a tokenizer of its own: it scores texts, not another model's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoConfig, AutoTokenizer

from dschat.config import require
from dschat.data.text import Prompt, encode_pair, verbatim
from dschat.models.loading import load_pretrained, load_reward_model
from dschat.models.v_head import check_not_v_head
from dschat.rewards.reward_model import RewardModel
from dschat.training.distributed import log_main


class TextReward:
    """Scores prompt + response by an `AutoModelForSequenceClassification(num_labels=1)`.

    Conversations are written with the reward model's own chat template, the response as the
    assistant's turn. A plain prompt is followed by the response and the end token, as step 2
    trains.

    Args:
        path: model folder or hub name. flag: the flag that gave it.
        dtype, device: of the model. batch_size: texts in one forward pass.

    Raises:
        UserError: there is no such model, or its config says that it is no reward model.
    """

    def __init__(
        self, path: str, flag: str, dtype: torch.dtype, device: torch.device, batch_size: int
    ) -> None:
        self.path, self.flag = path, flag
        self.dtype, self.device, self.batch_size = dtype, device, batch_size
        config = load_pretrained(AutoConfig, path, flag)
        check_not_v_head(path, flag)
        kinds = ", ".join(config.architectures or [])
        require(
            not kinds or ("Classification" in kinds and config.num_labels == 1),
            f"--{flag} {path} ({kinds}, {config.num_labels} labels) is no reward model; expected a "
            "sequence classifier of one label, such as step 2's output_dir/step_N.",
        )
        self.tokenizer = load_pretrained(AutoTokenizer, path, flag)
        if self.tokenizer.pad_token is None:
            # Padding is masked, and a text's last token is found by its length: any token will do.
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token

    def encode(self, prompt: Prompt, response: str) -> list[int]:
        """Token ids of the whole conversation.

        Raises:
            UserError: the prompt holds messages and this tokenizer has no chat template.
        """
        tokenizer = self.tokenizer
        if verbatim(prompt) is prompt and getattr(tokenizer, "chat_template", None):
            messages = [*prompt, {"role": "assistant", "content": response}]
            try:
                text = tokenizer.apply_chat_template(messages, tokenize=False)
                return list(tokenizer(text, add_special_tokens=False)["input_ids"])
            except TemplateError:
                # A template that refuses the system's turn: it is put before the user's below.
                pass
        if tokenizer.eos_token is None and isinstance(prompt, str):
            return list(tokenizer(prompt + response)["input_ids"])
        pair = encode_pair(tokenizer, prompt, response, tokenizer.eos_token, max_seq_len=2**31)
        return pair["input_ids"]

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
        model = model.to(self.device).eval()
        limit = getattr(model.config, "max_position_embeddings", None) or 2**31
        long = 0

        def score(texts: list[list[int]]) -> list[float]:
            nonlocal long
            long += sum(len(ids) > limit for ids in texts)
            return self._scores(model, [ids[-limit:] for ids in texts])

        yield score
        if long:
            log_main(
                f"{long} texts are longer than the reward model's context; their last {limit} "
                "tokens were scored."
            )

    @torch.no_grad()
    def _scores(self, model: Any, texts: list[list[int]]) -> list[float]:
        if isinstance(getattr(model, "score", None), torch.nn.Module):
            reward = RewardModel(model, self.tokenizer.pad_token_id, self.batch_size, self.device)
            examples = [{"prompt_ids": ids, "response_ids": []} for ids in texts]
            return reward([""] * len(texts), [""] * len(texts), examples)
        return self._pooled(model, texts)

    def _pooled(self, model: Any, texts: list[list[int]]) -> list[float]:
        """An encoder reads its score where it was trained to, often at the first token."""
        scores: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            batch = {"input_ids": texts[start : start + self.batch_size]}
            padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.device)
            scores += model(**padded).logits.squeeze(-1).float().tolist()
        return scores
