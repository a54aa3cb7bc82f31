"""What steps 1 and 2 share: start-up, the Trainer's arguments, tokenised and held-out rows."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging as transformers_logging

from dschat.checkpoint.continuation import Beginning, begin
from dschat.errors import UserError
from dschat.models.loading import DTYPE_NAMES, check_model_path, load_tokenizer, resolve_dtype
from dschat.models.optimizer import adamw, rates_text
from dschat.runtime.deepspeed_config import deepspeed_settings, read_overrides
from dschat.runtime.distributed import init_distributed, is_main, log_main, rank, world_size
from dschat.runtime.files import require_folder
from dschat.runtime.run_files import MetricsLog, data_folder, write_config
from dschat.settings.supervised import FineTuningConfig
from dschat.supervised.resumable_trainer import ResumableTrainer
from dschat.supervised.whole_rounds import BlankCollator, share_whole_rounds


@dataclass(frozen=True)
class Start:
    """What is known before the data and the model are loaded."""

    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    end_token: str
    output_dir: Path
    log: MetricsLog
    beginning: Beginning


def start(
    config: FineTuningConfig, written: Any = None, model_flag: str = "model_name_or_path"
) -> Start:
    """Check what can be checked early, join the process group, open the run's files.

    Args:
        config: the settings.
        written: the script's own dataclass, where it is another one: what config.yaml holds.
        model_flag: the flag that named the model, for messages.

    Raises:
        UserError: see `load_tokenizer`, `resolve_dtype`, `begin` and `write_config`.
    """
    assert config.model_name_or_path is not None
    assert config.output_dir is not None
    require_folder(config.output_dir, "output_dir")
    check_model_path(config.model_name_or_path, model_flag)
    device = init_distributed(config.local_rank)
    _quiet_libraries()
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
    board = config.tensorboard_path or output_dir / "tensorboard"
    resolved = {
        "dtype": DTYPE_NAMES[dtype],
        "end_of_conversation_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "tensorboard_path": str(board) if config.enable_tensorboard else None,
        "data_output_path": str(data_folder(config)),
        "deepspeed": True,
        "local_rank": -1,
    }
    written = config if written is None else written
    names = {field.name for field in dataclasses.fields(written)}
    known = {name: value for name, value in resolved.items() if name in names}
    settled = written.replace(**known)
    beginning = begin(settled)
    if beginning.result is None:
        write_config(settled, output_dir, device=device.type)
    resumed = beginning.checkpoint is not None
    log = MetricsLog(output_dir, board if config.enable_tensorboard else None, append=resumed)
    set_seed(config.seed)
    return Start(device, dtype, tokenizer, tokenizer.eos_token, output_dir, log, beginning)


def _quiet_libraries() -> None:
    """No telemetry and no progress bars but our own; warnings stay."""
    import datasets
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    # These tell of what is as it should be.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    if not is_main():
        datasets.disable_progress_bars()
        transformers_logging.set_verbosity_error()


def trainer_arguments(
    arguments_class: Any, config: FineTuningConfig, begun: Start, **further: Any
) -> Any:
    """TRL's arguments; `further` ones take precedence.

    While they live, ZeRO 3 partitions every model as it is loaded.
    """
    settings = deepspeed_settings(
        config.zero_stage,
        begun.dtype,
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
        world_size(),
        config.offload,
        read_overrides(config.deepspeed_config),
    )
    values = dict(
        output_dir=str(begun.output_dir),
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
        bf16=begun.dtype == torch.bfloat16,
        fp16=begun.dtype == torch.float16,
        use_cpu=begun.device.type == "cpu",
        dataloader_pin_memory=begun.device.type != "cpu",
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


class FineTuningTrainer(ResumableTrainer):
    """Mixed into TRL's trainers: DeepSpeed-Chat's optimiser, our progress and checkpoints in place
    of theirs.
    """

    config: FineTuningConfig
    optimizer: Any

    def use(self, config: FineTuningConfig, progress: TrainerCallback) -> None:
        """Take our settings; call it before training."""
        self.config = config
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]
        self.add_callback(progress)  # type: ignore[attr-defined]

    def get_train_dataloader(self) -> Any:
        """The Trainer asks for this once: every row once, whatever the number of ranks."""
        trainer: Any = self
        trainer.data_collator = BlankCollator(trainer.data_collator, trainer.train_dataset[0])
        loader = super().get_train_dataloader()  # type: ignore[misc]
        share_whole_rounds(loader, world_size())
        return loader

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer asks for this; see `adamw`."""
        if self.optimizer is None:
            model = self.model if model is None else model  # type: ignore[attr-defined]
            self.optimizer = adamw(
                model,
                self.config.learning_rate,
                self.config.weight_decay,
                self.config.lora_learning_rate,
            )
            log_main(rates_text(model, self.optimizer, "The model"))
            # ZeRO's optimisers have it: the Trainer asks it whether a step was taken.
            self.optimizer.overflow = False
        return self.optimizer


def tokenised(
    rows: Any,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    what: str,
    length_flag: str = "--max_seq_len",
) -> Any:
    """`encode` mapped over a `datasets.Dataset`; rows that it marks with `keep` False are left out.

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
            f"{len(encoded) - len(kept)} of {len(encoded)} {what} left out: nothing of the "
            f"response is left within {length_flag}."
        )
    if not kept and len(encoded):
        raise UserError(
            f"None of the {len(encoded)} {what} can be used: the prompts alone fill {length_flag}. "
            f"Give a larger {length_flag}."
        )
    encoded = encoded.remove_columns("keep")
    return encoded if len(kept) == len(encoded) else encoded.select(kept)


def held_out_batches(
    rows: Any, collate: Callable[..., Any], batch_size: int, device: torch.device, limit: int = 0
) -> Iterator[tuple[dict[str, torch.Tensor], bool]]:
    """This rank's share of the rows in batches, each with whether it counts.

    Every rank gets as many batches as the others, because a forward pass is collective under
    ZeRO 3; those that fill up do not count.

    Args:
        rows: tokenised `datasets.Dataset`.
        collate: list of rows -> batch of tensors.
        batch_size: rows per batch.
        device: where the tensors go.
        limit: at most so many batches; 0: all.
    """
    ranks = world_size()
    batches = math.ceil(math.ceil(len(rows) / ranks) / batch_size)
    for i in range(min(batches, limit) if limit else batches):
        first = i * batch_size * ranks + rank()
        last = min(first + batch_size * ranks, len(rows))
        indices = list(range(first, last, ranks))
        batch = collate([rows[j] for j in indices or [0]])
        yield {name: tensor.to(device) for name, tensor in batch.items()}, bool(indices)
