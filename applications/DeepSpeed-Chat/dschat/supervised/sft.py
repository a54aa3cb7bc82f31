"""Step 1: supervised fine-tuning (TRL's SFTTrainer under DeepSpeed)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from dschat.checkpoint.model_folder import save_model_folder
from dschat.data.load import load_data
from dschat.data.text import encode_pair, warn_of_missing_template
from dschat.models.loading import load_causal_lm
from dschat.runtime.distributed import log_main, shut_down
from dschat.runtime.run_files import data_folder
from dschat.settings.supervised import SupervisedConfig
from dschat.supervised.batches import IGNORED
from dschat.supervised.fine_tuning import (
    Setup,
    data_facts,
    held_out_means,
    set_up,
    tokenised,
    trainer_arguments,
    with_adapters,
)
from dschat.supervised.progress import Progress
from dschat.supervised.trainer import FineTuningTrainer


class SupervisedTrainer(FineTuningTrainer, SFTTrainer):
    """TRL's trainer and `FineTuningTrainer`."""


def run_sft(config: SupervisedConfig) -> None:
    """Train, save to output_dir, and leave the process group: what the script calls."""
    train_sft(config)
    shut_down()


def train_sft(config: SupervisedConfig) -> dict[str, float]:
    """Fine-tune a causal language model on chosen responses.

    output_dir becomes a model folder, with config.yaml and metrics.jsonl in it.

    Returns:
        The last evaluation: eval_loss, eval_perplexity and eval_tokens (held-out tokens). After
        SIGTERM that may be an earlier one, or empty.

    Raises:
        UserError: anything in the settings, the data, the model or the disk that the user can mend.
    """
    setup = set_up(config)
    if setup.run.finished is not None:
        return setup.run.finished[1]
    train, held_out = load_rows(config, setup)
    setup.run.check_data(**data_facts(config.deepspeed_config, train, held_out))
    setup.run.restore_metrics(setup.log)
    with setup.log:
        trainer = SupervisedTrainer(
            model=load_model(config, setup),
            args=trainer_arguments(SFTConfig, config, setup),
            train_dataset=train,
            processing_class=setup.tokenizer,
            data_collator=DataCollatorForLanguageModeling(setup.tokenizer.pad_token_id),
        )
        if config.compute_fp32_loss:
            wrapped: Any = trainer.model
            base = wrapped.get_base_model() if config.lora_dim else wrapped
            add_fused_lm_head(
                base, cast_lm_head_to_fp32=True, outputs=("log_probs", "entropy", "is_top1")
            )

        def evaluate(last: bool) -> dict[str, float]:
            pad, size = setup.tokenizer.pad_token_id, config.per_device_eval_batch_size
            return perplexity(trainer.model_wrapped, held_out, pad, size)

        def save(micro_step: int, last: bool) -> Path:
            what = trainer.model, setup.tokenizer, setup.output_dir, True
            extras = setup.extras("supervised fine-tuning", progress.result)
            save_model_folder(*what, extras=extras)
            return setup.output_dir

        progress = Progress(setup.log, evaluate, save, print_loss=config.print_loss)
        trainer.run(config, setup.run, progress)
    return progress.result


def load_model(config: SupervisedConfig, setup: Setup) -> Any:
    """The model to train, with adapters where they are asked for."""
    assert config.model_name_or_path is not None
    model = load_causal_lm(
        config.model_name_or_path,
        setup.tokenizer,
        setup.dtype,
        dropout=config.dropout,
        may_grow=config.add_eot_token,
    )
    return with_adapters(model, config, setup.tokenizer)


def load_rows(config: SupervisedConfig, setup: Setup) -> tuple[Any, Any]:
    """Tokenised training and held-out rows with the columns input_ids and labels."""
    data = load_data(
        config.data_path,
        phase="sft",
        data_split=config.data_split,
        seed=config.seed,
        data_output_path=str(data_folder(config)),
        sft_only_data_path=config.sft_only_data_path,
        apply_chat_template=config.apply_chat_template,
    )
    warn_of_missing_template(data.train, setup.tokenizer)

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        pair = encode_pair(
            setup.tokenizer, row["prompt"], row["chosen"], setup.end_token, config.max_seq_len
        )
        return labelled(pair["input_ids"], pair["completion_mask"], config.completion_only_loss)

    return (
        tokenised(data.train, encode, "training rows"),
        tokenised(data.eval, encode, "held-out rows"),
    )


def labelled(
    input_ids: list[int], completion_mask: list[int], completion_only: bool
) -> dict[str, Any]:
    """Labels for one text: the ids themselves, or -100 where nothing is to be learnt.

    Returns:
        input_ids, labels (same length) and keep: whether anything of the response is learnt.
    """
    labels = [
        token if mask or not completion_only else IGNORED
        for token, mask in zip(input_ids, completion_mask, strict=True)
    ]
    # The first token is never predicted.
    return {"input_ids": input_ids, "labels": labels, "keep": any(completion_mask[1:])}


def perplexity(model: Any, rows: Any, pad_token_id: int, batch_size: int) -> dict[str, float]:
    """exp of the mean negative log-likelihood per trained token, over all ranks' rows.

    Args:
        model: the engine, with TRL's fused output layer (`add_fused_lm_head`); all ranks must call.
        rows: tokenised rows with input_ids and labels.
        batch_size: rows per forward pass.

    Returns:
        eval_loss, eval_perplexity, eval_tokens; nothing without rows.
    """

    def sums(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = model(**batch, use_cache=False, fused_lm_head=True)
        loss = -output.log_probs.sum(dtype=torch.float64)
        return {"loss": loss, "tokens": output.label_mask.sum()}

    collate = DataCollatorForLanguageModeling(pad_token_id)
    found = held_out_means(model, rows, collate, batch_size, sums, "tokens")
    if found:
        loss, tokens = found["eval_loss"], found["eval_tokens"]
        found["eval_perplexity"] = math.exp(loss) if loss < 700 else math.inf
        log_main(
            f"Held-out perplexity {found['eval_perplexity']:.4g} (loss {loss:.4f} over "
            f"{tokens:.0f} tokens)"
        )
    return found
