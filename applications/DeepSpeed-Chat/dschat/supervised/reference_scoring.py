"""Sequence log-probabilities of preference pairs under several references, one in memory at a time.

Policy and references go through the same function, so that a policy that is its own reference has
the log-ratio 0 (in bf16: up to what another padding of the batch changes), and no tensor of
batch x length x vocabulary is made.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from dschat.errors import UserError
from dschat.models.loading import check_same_vocabulary, load_causal_lm, load_pretrained
from dschat.models.output_layer import cut_vocabulary
from dschat.runtime.distributed import all_reduce, is_main, log_main, rank, world_size
from dschat.runtime.interruption import StopRequest, StopRequestedError

CHOSEN, REJECTED = "reference_chosen_logps", "reference_rejected_logps"


class PairCollator(DataCollatorForPreference):
    """TRL's batch of pairs, with each reference's log-probabilities where the rows have them.

    The batch holds B chosen and then B rejected texts; `reference_logps` is [K, 2 B] float32.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A list of rows -> tensors."""
        batch = super().torch_call(examples)
        if CHOSEN in examples[0]:
            rows = [row[name] for name in (CHOSEN, REJECTED) for row in examples]
            batch["reference_logps"] = torch.tensor(rows, dtype=torch.float32).t().contiguous()
        return batch


def sequence_logprobs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """log pi(response | prompt) of every text of a batch, [2 B] float32.

    Args:
        model: a causal LM with TRL's fused output layer (`add_fused_lm_head`), or an engine of it.
        batch: input_ids, attention_mask, completion_mask [2 B, L].
    """
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,
    )
    return output.log_probs.float().sum(dim=1)


def check_references(
    references: Sequence[tuple[str, str]], tokenizer: Any, policy: str, policy_flag: str
) -> int:
    """Make sure that token ids mean the same to all models, before any of them is loaded.

    Args:
        references: (folder or hub name, flag that named it).
        tokenizer: the policy's. policy, policy_flag: where it comes from.

    Returns:
        How many tokens all of them have a logit for; what is beyond is padding.

    Raises:
        UserError: a reference cannot be read, or has other tokens (some of them are named).
    """
    models = [(policy, policy_flag), *references]
    widths = [load_config(*model).get_text_config().vocab_size for model in models]
    for path, flag in dict.fromkeys(references):
        if path != policy:
            other = load_pretrained(AutoTokenizer, path, flag)
            check_same_vocabulary(tokenizer, other, policy, path)
    if len(set(widths)) > 1:
        log_main(
            f"Output layers of {', '.join(map(str, sorted(set(widths))))} rows: cut to "
            f"{min(widths)} (the vocabulary has {len(tokenizer)} tokens; the rest is padding)"
        )
    return int(min(widths))


def load_config(path: str, flag: str) -> Any:
    """A model's transformers config; raises `UserError` where there is none."""
    return load_pretrained(AutoConfig, path, flag)


def add_reference_logprobs(
    datasets: Sequence[Any],
    references: Sequence[tuple[str, str]],
    tokenizer: Any,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int,
    needed: Sequence[list[int] | None] | None = None,
    stop: StopRequest | None = None,
) -> list[Any]:
    """Add the columns `reference_chosen_logps` and `reference_rejected_logps`, K numbers a row.

    Each rank loads each reference whole, scores its share of the rows, and frees it; afterwards all
    ranks have all numbers. Call it while no ZeRO 3 settings are alive, which would partition the
    references.

    Args:
        datasets: tokenised pairs (`datasets.Dataset` with prompt_ids, chosen_ids, rejected_ids).
        references: (path, flag that named it).
        tokenizer, width: see `check_references`.
        batch_size: pairs in one forward pass.
        needed: for each data set the rows that will be used, None for all; the others get NaN.
        stop: asked before every forward pass.

    Raises:
        StopRequestedError: (on all ranks) a rank was asked to stop.
        UserError: a reference cannot be loaded, or gives a log-probability that is no number.
    """
    scores: list[list[Tensor]] = [[] for _ in datasets]
    seen: dict[str, list[Tensor]] = {}
    wanted = needed or [None] * len(datasets)
    for path, flag in references:
        if path not in seen:
            model = load_causal_lm(path, tokenizer, dtype, flag)
            model = cut_vocabulary(model, width).to(device).eval().requires_grad_(False)
            add_fused_lm_head(model)
            seen[path] = [
                _score(model, rows, chosen, tokenizer.pad_token_id, device, batch_size, path, stop)
                for rows, chosen in zip(datasets, wanted, strict=True)
            ]
            del model
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        for found, new in zip(scores, seen[path], strict=True):
            found.append(new)
    return [_with_columns(rows, found) for rows, found in zip(datasets, scores, strict=True)]


@torch.no_grad()
def _score(
    model: Any,
    rows: Any,
    chosen: list[int] | None,
    pad_token_id: int,
    device: torch.device,
    batch_size: int,
    path: str,
    stop: StopRequest | None,
) -> Tensor:
    """[n, 2] float64 on CPU: chosen and rejected log-probabilities of the chosen rows, on every
    rank; NaN for the others.
    """
    collate = PairCollator(pad_token_id)
    found = torch.zeros(len(rows), 2, dtype=torch.float64, device=device)
    every = range(len(rows)) if chosen is None else sorted(chosen)
    mine = list(every[rank() :: world_size()])
    # As many on all ranks, for they ask each other whether to stop.
    starts = range(0, math.ceil(len(every) / world_size()), batch_size)
    for start in tqdm(starts, f"scoring by {path}", unit="batch", disable=not is_main()):
        if stop is not None and stop.on_any_rank(device):
            raise StopRequestedError
        indices = mine[start : start + batch_size]
        if not indices:
            continue
        batch = {name: t.to(device) for name, t in collate([rows[i] for i in indices]).items()}
        found[indices] = torch.stack(sequence_logprobs(model, batch).double().chunk(2), dim=1)
    all_reduce(found)
    bad = (~found.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"The reference {path} gives log-probabilities that are no finite numbers for "
            f"{len(bad)} of {len(rows)} pairs (the first is number {bad[0]}). Without --fp16 or "
            "with --bf16 numbers have more range; otherwise give another reference."
        )
    if chosen is not None:
        left_out = torch.ones(len(rows), dtype=torch.bool, device=device)
        left_out[chosen] = False
        found[left_out] = torch.nan
    return found.cpu()


def _with_columns(rows: Any, scores: list[Tensor]) -> Any:
    """rows with K numbers each for the chosen and the rejected response."""
    if len(rows) == 0:
        return rows
    table = torch.stack(scores, dim=-1)  # [n, 2, K]
    rows = rows.add_column(CHOSEN, table[:, 0].tolist())
    return rows.add_column(REJECTED, table[:, 1].tolist())
