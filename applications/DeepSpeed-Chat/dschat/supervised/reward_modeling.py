"""Step 2: a reward model from preference pairs (TRL's RewardTrainer under DeepSpeed)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import (
    DataCollatorForPreference,
    RewardTrainer,
    suppress_seqcls_warning,
)

from dschat.checkpoint.model_folder import save_model_folder
from dschat.data.load import load_data
from dschat.data.text import encode_pair, warn_of_missing_template
from dschat.models.loading import load_reward_model
from dschat.models.score_reading import read_at_last_token
from dschat.runtime.distributed import all_reduce, log_main, shut_down
from dschat.runtime.run_files import data_folder
from dschat.settings.supervised import RewardModelingConfig
from dschat.supervised.batches import PAIRS
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
from dschat.supervised.trainer import PairTrainer


class PreferenceTrainer(PairTrainer, RewardTrainer):
    """TRL's trainer and `PairTrainer`, with TRL's statistics over the step's pairs."""

    _scores: list[Tensor]

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], int]:
        """See `PairTrainer`."""
        self._scores = []
        return super().get_batch_samples(*arguments)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro-batch's part of the mean over the optimiser step's pairs."""
        pairs = int(inputs[PAIRS])
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        scores = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.squeeze(-1)
        scores = scores.unflatten(0, (2, -1))[:, :pairs]
        self._scores.append(scores.detach().float().flatten())
        chosen, rejected = scores
        margins = chosen - rejected
        statistics = {
            "mean_reward": scores.detach().sum() / 2,
            "accuracy": (margins > 0).sum(),
            "margin": margins.detach().sum(),
        }
        return self.part_of_step(-F.logsigmoid(margins), statistics, num_items_in_batch)

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add the step's lowest and highest score."""
        if "loss" in logs:
            scores = torch.cat(self._scores)
            limits = scores.new_full((2,), float("inf"))  # of a rank without pairs
            if len(scores):
                limits = torch.stack([scores.min(), -scores.max()])
            low, high = all_reduce(limits, "min").tolist()
            logs = {**logs, "min_reward": low, "max_reward": -high}
        super().log(logs, *rest)


def run_reward_modeling(config: RewardModelingConfig) -> None:
    """Train, save to output_dir/step_N, and leave the process group: what the script calls."""
    train_reward_model(config)
    shut_down()


def train_reward_model(config: RewardModelingConfig) -> dict[str, float]:
    """Train a model with one score per text so that chosen scores exceed rejected ones.

    The loss is -log sigmoid(score(chosen) - score(rejected)) (Bradley-Terry; Ouyang et al. 2022,
    arXiv 2203.02155). The score is read at a text's last token; see `dschat.models.score_reading`.

    Returns:
        The last evaluation; see `pairwise_accuracy`. After SIGTERM that may be an earlier one, or
        empty.

    Raises:
        UserError: anything in the settings, the data, the model or the disk that the user can mend.
    """
    setup = set_up(config)
    if setup.run.finished is not None:
        return setup.run.finished[1]
    train, held_out = load_pairs(config, setup)
    setup.run.check_data(**data_facts(config.deepspeed_config, train, held_out))
    setup.run.restore_metrics(setup.log)
    with setup.log:
        trainer = PreferenceTrainer(
            model=load_model(config, setup),
            args=trainer_arguments(RewardConfig, config, setup, disable_dropout=False),
            train_dataset=train,
            processing_class=setup.tokenizer,
        )

        def evaluate(last: bool) -> dict[str, float]:
            pad, size = setup.tokenizer.pad_token_id, config.per_device_eval_batch_size
            limit = 0 if last else config.eval_iters
            return pairwise_accuracy(trainer.model_wrapped, held_out, pad, size, limit)

        def save(micro_step: int, last: bool) -> Path:
            folder = setup.output_dir / f"step_{micro_step}"
            extras = setup.extras("reward modelling", progress.result)
            save_model_folder(trainer.model, setup.tokenizer, folder, extras=extras)
            return folder

        progress = Progress(setup.log, evaluate, save, config.eval_interval, config.print_loss)
        trainer.run(config, setup.run, progress)
    return progress.result


def load_model(config: RewardModelingConfig, setup: Setup) -> Any:
    """The model to train, with adapters where they are asked for; its head may be new."""
    assert config.model_name_or_path is not None
    with suppress_seqcls_warning():  # step 1's model has no score head yet: as it should be
        model = load_reward_model(
            config.model_name_or_path,
            setup.tokenizer,
            setup.dtype,
            dropout=config.dropout,
            head_may_be_new=True,
            may_grow=config.add_eot_token,
        )
    read_at_last_token(model)
    if config.compute_fp32_loss:
        model.register_forward_hook(_scores_in_fp32)
    return with_adapters(model, config, setup.tokenizer)


def _scores_in_fp32(module: Any, inputs: Any, output: Any) -> Any:
    """A forward hook: the loss is computed from float32 scores."""
    output.logits = output.logits.float()
    return output


def load_pairs(config: RewardModelingConfig, setup: Setup) -> tuple[Any, Any]:
    """Tokenised training and held-out pairs with the columns chosen_ids and rejected_ids."""
    data = load_data(
        config.data_path,
        phase="reward",
        data_split=config.data_split,
        seed=config.seed,
        data_output_path=str(data_folder(config)),
        apply_chat_template=config.apply_chat_template,
    )
    warn_of_missing_template(data.train, setup.tokenizer)

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        ids = {
            f"{which}_ids": encode_pair(
                setup.tokenizer,
                row["prompt"],
                row[which],
                setup.end_token,
                config.max_seq_len,
                config.num_padding_at_beginning,
            )["input_ids"]
            for which in ("chosen", "rejected")
        }
        # Cut to the same tokens, the two texts cannot teach a preference.
        return {**ids, "keep": ids["chosen_ids"] != ids["rejected_ids"]}

    return (
        tokenised(data.train, encode, "training pairs"),
        tokenised(data.eval, encode, "held-out pairs"),
    )


def pairwise_accuracy(
    model: Any, rows: Any, pad_token_id: int, batch_size: int, limit: int = 0
) -> dict[str, float]:
    """The loss, how often the chosen response scores higher, and mean scores, of all ranks' pairs.

    Args:
        model: the engine, which gives one score per text; all ranks must call.
        rows: tokenised pairs with chosen_ids and rejected_ids.
        batch_size: pairs per forward pass.
        limit: at most so many batches per rank; 0: all.

    Returns:
        eval_loss, eval_accuracy, eval_chosen_score, eval_rejected_score (means), eval_pairs (their
        number); nothing without pairs.
    """

    def sums(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        scores = model(**batch, use_cache=False).logits.squeeze(-1).double()
        chosen, rejected = scores.chunk(2)
        return {
            "loss": -F.logsigmoid(chosen - rejected).sum(),
            "accuracy": (chosen > rejected).sum(),
            "chosen_score": chosen.sum(),
            "rejected_score": rejected.sum(),
            "pairs": torch.tensor(len(chosen)),
        }

    collate = DataCollatorForPreference(pad_token_id)
    found = held_out_means(model, rows, collate, batch_size, sums, "pairs", limit)
    if found:
        log_main(
            f"Held-out accuracy {found['eval_accuracy']:.2%} of {found['eval_pairs']:.0f} pairs, "
            f"loss {found['eval_loss']:.4f}; mean score {found['eval_chosen_score']:.3f} chosen, "
            f"{found['eval_rejected_score']:.3f} rejected"
        )
    return found
