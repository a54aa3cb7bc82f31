"""What steps 1 and 2 share: start-up, the Trainer's arguments, tokenised and held-out rows."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dschat.checkpoint.model_card import Extras
from dschat.checkpoint.publish import check_publishing, publish
from dschat.checkpoint.resume import ResumableRun, open_run
from dschat.data.ends import ends_of
from dschat.errors import UserError
from dschat.models.loading import (
    DTYPE_NAMES,
    check_context,
    check_model_path,
    load_tokenizer,
    resolve_dtype,
)
from dschat.models.lora import add_lora
from dschat.runtime.deepspeed_config import deepspeed_settings, read_overrides
from dschat.runtime.distributed import (
    init_distributed,
    log_main,
    quiet_libraries,
    rank,
    sum_over_ranks,
    world_size,
)
from dschat.runtime.files import require_folder
from dschat.runtime.random_states import seed_everything
from dschat.runtime.run_files import MetricsLog, data_folder, write_config
from dschat.settings.supervised import FineTuningConfig

MAY_DIFFER = {"gradient_checkpointing"}
"""Settings of steps 1, 2 and DPO that change no result."""


@dataclass(frozen=True)
class Setup:
    """What is known before the data and the model are loaded."""

    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    end_token: str
    output_dir: Path
    log: MetricsLog
    run: ResumableRun

    def extras(self, method: str, result: dict[str, float]) -> Extras:
        """What a model folder holds beside the model.

        Args:
            method: how it was trained, in words. result: the last evaluation.
        """
        settings = self.run.settings
        return Extras(method, settings, self.log, result, settings.save_adapter)


def set_up(
    config: FineTuningConfig, written: Any = None, model_flag: str = "model_name_or_path"
) -> Setup:
    """Check what can be checked early, join the process group, open the run's files.

    Args:
        config: the settings.
        written: the script's own dataclass, where it is another one: what config.yaml holds.
        model_flag: the flag that named the model, for messages.

    Raises:
        UserError: see `load_tokenizer`, `resolve_dtype`, `open_run` and `write_config`.
    """
    assert config.model_name_or_path is not None
    assert config.output_dir is not None
    require_folder(config.output_dir, "output_dir")
    check_publishing(config)
    check_model_path(config.model_name_or_path, model_flag)
    device = init_distributed(config.local_rank)
    quiet_libraries()
    dtype = resolve_dtype(config.dtype, device)
    tokenizer = load_tokenizer(
        config.model_name_or_path,
        model_flag,
        end_of_conversation_token=config.end_of_conversation_token,
        add_eot_token=config.add_eot_token,
        pad_token=config.pad_token,
    )
    tokenizer.padding_side = "right"
    output_dir = Path(config.output_dir)
    resolved = {
        "dtype": DTYPE_NAMES[dtype],
        "end_of_conversation_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "tensorboard_path": config.board_folder(output_dir),
        "data_output_path": str(data_folder(config)),
        "deepspeed": True,
        "local_rank": -1,
    }
    written = config if written is None else written
    names = {field.name for field in dataclasses.fields(written)}
    known = {name: value for name, value in resolved.items() if name in names}
    run = open_run(written.replace(**known), may_differ=MAY_DIFFER)
    if run.finished is None:
        write_config(run.settings, output_dir, device=device.type)
    else:
        publish(config, run.finished[0])
    log = MetricsLog.of(run.settings, output_dir, resuming=run.checkpoint is not None)
    seed_everything(config.seed)
    return Setup(device, dtype, tokenizer, tokenizer.eos_token, output_dir, log, run)


def trainer_arguments(
    arguments_class: Any, config: FineTuningConfig, setup: Setup, **further: Any
) -> Any:
    """TRL's arguments; `further` ones take precedence.

    While they live, ZeRO 3 partitions every model as it is loaded.
    """
    settings = deepspeed_settings(
        config.zero_stage,
        setup.dtype,
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
        world_size(),
        config.offload,
        read_overrides(config.deepspeed_config),
    )
    values = dict(
        output_dir=str(setup.output_dir),
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=settings["gradient_clipping"],
        num_train_epochs=config.num_train_epochs,
        lr_scheduler_type=config.lr_scheduler_type,
        # A number below 1 is a share of all steps.
        warmup_steps=config.num_warmup_steps or config.warmup_ratio,
        seed=config.seed,
        bf16=setup.dtype == torch.bfloat16,
        fp16=setup.dtype == torch.float16,
        use_cpu=setup.device.type == "cpu",
        dataloader_pin_memory=setup.device.type != "cpu",
        deepspeed=settings,
        max_length=None,  # the data layer has cut the texts
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return arguments_class(**{**values, **further})


def data_facts(deepspeed_config: str | None, train: Any, held_out: Any) -> dict[str, Any]:
    """What a resumed run must share beside the settings: the rows, and DeepSpeed's own file.

    Args:
        train, held_out: `datasets.Dataset` whose columns are lists of integers.
    """
    return {
        "training_rows": len(train),
        "held_out_rows": len(held_out),
        "checksum_of_the_rows": _checksum(held_out, _checksum(train)),
        "contents_of_the_deepspeed_config": read_overrides(deepspeed_config),
    }


def _checksum(rows: Any, start: int = 0) -> int:
    """CRC-32 of all numbers and lengths in the columns of a data set of integer lists."""
    if len(rows) == 0:
        return start
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for name in sorted(table.column_names):
            column = table.column(name).combine_chunks()
            for numbers in (column.value_lengths(), column.flatten()):
                values = numbers.to_numpy(zero_copy_only=False).astype(np.int64)
                start = zlib.crc32(values.tobytes(), start)
    return start


def tokenised(
    rows: Any,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    what: str,
    length_flag: str = "--max_seq_len",
) -> Any:
    """`encode` mapped over a `datasets.Dataset`; rows that it marks with `keep` False are dropped.

    Args:
        rows: the data layer's rows.
        encode: row -> columns of token ids, and `keep`.
        what: for progress and messages, such as "training rows".
        length_flag: the flag that sets the length, for messages.

    Raises:
        UserError: there were rows, and none is left.
    """
    import datasets

    if len(rows) == 0:  # of no rows `map` keeps the columns as they are
        return rows.remove_columns(rows.column_names)
    encoded = rows.map(
        encode,
        remove_columns=rows.column_names,
        desc=f"Tokenising {what}",
        # Hashing the tokenizer to look for a cached result costs more than it saves, and what is
        # never looked for should not pile up on the disk, a file for each rank of each run.
        load_from_cache_file=False,
        new_fingerprint=datasets.fingerprint.generate_random_fingerprint(),
        keep_in_memory=True,
    )
    kept = [i for i, keep in enumerate(encoded["keep"]) if keep]
    if len(kept) < len(encoded):
        log_main(
            f"{len(encoded) - len(kept)} of {len(encoded)} {what} skipped: nothing of the "
            f"response is left within {length_flag}."
        )
    if not kept and len(encoded):
        raise UserError(
            f"None of the {len(encoded)} {what} can be used: the prompts alone fill {length_flag}. "
            f"Give a larger {length_flag}."
        )
    encoded = encoded.remove_columns("keep")
    return encoded if len(kept) == len(encoded) else encoded.select(kept)


@torch.no_grad()
def held_out_means(
    model: Any,
    rows: Any,
    collate: Callable[..., Any],
    batch_size: int,
    sums_of: Callable[[Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    count: str,
    limit: int = 0,
) -> dict[str, float]:
    """Means over the held-out rows of all ranks, which all must call.

    Every rank makes as many forward passes as the others, because they are collective under
    ZeRO 3; those that only fill up do not count.

    Args:
        model: the engine in training; it is in train mode again afterwards.
        rows: tokenised `datasets.Dataset`; none: an empty result.
        collate: list of rows -> batch of tensors.
        batch_size: rows per batch.
        sums_of: called with model and batch; returns sums by name.
        count: the name of the sum that divides the others.
        limit: at most so many batches on a rank; 0: all.

    Returns:
        eval_NAME: the means, and the count itself.
    """
    if len(rows) == 0:
        return {}
    model.eval()
    ranks, sums = world_size(), dict[str, float]()
    batches = math.ceil(math.ceil(len(rows) / ranks) / batch_size)
    for i in range(min(batches, limit) if limit else batches):
        first = i * batch_size * ranks + rank()
        last = min(first + batch_size * ranks, len(rows))
        indices = list(range(first, last, ranks))
        batch = collate([rows[j] for j in indices or [0]])
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        for name, value in sums_of(model, batch).items():
            counted = float(value.double()) if indices else 0.0
            sums[name] = sums.get(name, 0.0) + counted
    model.train()
    totals = dict(zip(sums, sum_over_ranks(list(sums.values()), model.device), strict=True))
    number = totals.pop(count)
    means = {name: total / number for name, total in totals.items()}
    return {f"eval_{name}": value for name, value in {**means, count: number}.items()}


def with_adapters(model: Any, config: FineTuningConfig, tokenizer: Any) -> Any:
    """The model, fit for --max_seq_len, with LoRA adapters where they are asked for.

    Raises:
        UserError: its context is shorter, or no layer has the name that was given.
    """
    check_context(model.config, config.max_seq_len, f"--max_seq_len {config.max_seq_len}")
    if config.lora_dim == 0:
        return model
    new_rows = ends_of(tokenizer).new_rows()
    adapters = config.lora_dim, config.lora_module_name, config.only_optimize_lora
    return add_lora(model, *adapters, new_rows=new_rows)
