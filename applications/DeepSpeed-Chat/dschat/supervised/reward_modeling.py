"""Step 2: a reward model from preference pairs (TRL's RewardTrainer under DeepSpeed)."""

from __future__ import annotations

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

from dschat.checkpoint.model_folder import check_save, save_model_folder
from dschat.data.ends import ends_of
from dschat.data.load import load_data
from dschat.data.text import encode_pair, warn_of_missing_template
from dschat.models.loading import check_context, load_reward_model
from dschat.models.lora import add_lora
from dschat.models.score_reading import read_at_last_token
from dschat.runtime.distributed import all_reduce, log_main, shut_down, sum_over_ranks
from dschat.runtime.run_files import data_folder
from dschat.settings.supervised import RewardModelingConfig
from dschat.supervised.batches import PAIRS
from dschat.supervised.fine_tuning import (
    Setup,
    data_facts,
    held_out_batches,
    set_up,
    tokenised,
    trainer_arguments,
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
        arguments = trainer_arguments(RewardConfig, config, setup, disable_dropout=False)
        trainer = PreferenceTrainer(
            model=load_model(config, setup),
            args=arguments,
            train_dataset=train,
            processing_class=setup.tokenizer,
        )
        check_save([trainer.model], setup.tokenizer, setup.output_dir)

        def evaluate(last: bool) -> dict[str, float]:
            if len(held_out) == 0:
                return {}
            return pairwise_accuracy(
                trainer.model_wrapped,
                held_out,
                setup.tokenizer.pad_token_id,
                config.per_device_eval_batch_size,
                setup.device,
                limit=0 if last else config.eval_iters,
            )

        def save(micro_step: int) -> None:
            path = setup.output_dir / f"step_{micro_step}"
            save_model_folder(trainer.model, setup.tokenizer, path)
            log_main(f"Saved the reward model to {path}")

        progress = Progress(setup.log, evaluate, save, config.eval_interval, config.print_loss)
        finished = trainer.run(config, setup.run, progress)
    if finished:
        model = setup.output_dir / f"step_{progress.micro_step}"
        setup.run.mark_finished(trainer.state.global_step, model, progress.result)
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
    check_context(model.config, config.max_seq_len, f"--max_seq_len {config.max_seq_len}")
    read_at_last_token(model)
    if config.compute_fp32_loss:
        model.register_forward_hook(_scores_in_fp32)
    if config.lora_dim == 0:
        return model
    new_rows = ends_of(setup.tokenizer).new_rows()
    adapters = config.lora_dim, config.lora_module_name, config.only_optimize_lora
    return add_lora(model, *adapters, new_rows=new_rows)


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


@torch.no_grad()
def pairwise_accuracy(
    model: Any,
    rows: Any,
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
    limit: int = 0,
) -> dict[str, float]:
    """The loss, how often the chosen response scores higher, and mean scores, of all ranks' pairs.

    Args:
        model: gives one score per text; all ranks must call.
        rows: tokenised pairs with chosen_ids and rejected_ids.
        pad_token_id: for the collator.
        batch_size: pairs per forward pass.
        device: the model's.
        limit: at most so many batches per rank; 0: all.

    Returns:
        eval_loss, eval_accuracy, eval_chosen_score, eval_rejected_score (means), eval_pairs (their
        number).
    """
    model.eval()
    sums = [0.0] * 5
    collate = DataCollatorForPreference(pad_token_id)
    for batch, counts in held_out_batches(rows, collate, batch_size, device, limit):
        scores = model(**batch, use_cache=False).logits.squeeze(-1).double()
        chosen, rejected = scores.chunk(2)
        if counts:
            right = chosen > rejected
            losses = -F.logsigmoid(chosen - rejected)
            parts = (losses, right, chosen, rejected, torch.ones_like(chosen))
            sums = [s + p.sum().item() for s, p in zip(sums, parts, strict=True)]
    model.train()
    *totals, pairs = sum_over_ranks(sums, device)
    loss, accuracy, better, worse = (total / pairs for total in totals)
    log_main(
        f"Held-out accuracy {accuracy:.2%} of {pairs:.0f} pairs, loss {loss:.4f}; mean score "
        f"{better:.3f} chosen, {worse:.3f} rejected"
    )
    return {
        "eval_loss": loss,
        "eval_accuracy": accuracy,
        "eval_chosen_score": better,
        "eval_rejected_score": worse,
        "eval_pairs": pairs,
    }
