"""DPO with several references (TRL's DPOTrainer under DeepSpeed)."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from trl.trainer.dpo_config import DPOConfig

from dschat.checkpoint.model_folder import save_model_folder
from dschat.data.load import load_data
from dschat.data.text import encode_pair, warn_of_missing_template
from dschat.models.loading import check_context, load_causal_lm
from dschat.models.lora import LORA_ALPHA, lora_targets
from dschat.models.output_layer import cut_vocabulary
from dschat.rewards.text_reward import TextReward
from dschat.runtime.distributed import is_main, log_main, shut_down, world_size
from dschat.runtime.interruption import (
    STOPPED_BEFORE_TRAINING,
    StopRequest,
    StopRequestedError,
)
from dschat.runtime.run_files import data_folder
from dschat.settings.command_line import require
from dschat.settings.dpo import DirectPreferenceConfig
from dschat.settings.references import reference_weights
from dschat.supervised.batches import planned_rows
from dschat.supervised.dpo_trainer import MultiReferenceTrainer, PairObjective, evaluate_pairs
from dschat.supervised.fine_tuning import (
    Setup,
    data_facts,
    set_up,
    tokenised,
    trainer_arguments,
)
from dschat.supervised.progress import StepProgress
from dschat.supervised.reference_scoring import (
    PairCollator,
    add_reference_logprobs,
    check_references,
    load_config,
)
from dschat.supervised.reward_comparison import Model, RewardComparison, Sampling


def run_dpo(config: DirectPreferenceConfig) -> None:
    """Train, save to output_dir, compare, and leave the process group: what the script calls."""
    train_dpo(config)
    shut_down()


def train_dpo(config: DirectPreferenceConfig) -> dict[str, float]:
    """Train a policy on preference pairs, near a mixture of references.

    The references are scored one after the other before the policy is loaded, and are not in
    memory while it trains. See docs/multi_reference.md for the loss.

    Returns:
        The last evaluation; see `evaluate_pairs`. Empty without held-out pairs; after SIGTERM it
        may be an earlier one.

    Raises:
        UserError: anything in the settings, the data, a model or the disk that the user can mend.
    """
    on_gpu = torch.cuda.is_available()
    require(on_gpu or not config.fp16, "--fp16 needs a GPU; leave it out, or give --bf16.")
    references = reference_weights(config, config.kl_type)
    policy, flag = config.policy
    setup = set_up(config.fine_tuning(), written=config, model_flag=flag)
    compared = setup.output_dir / "reward_comparison.json"
    finished = setup.run.finished
    if finished is not None and (config.rm_name is None or compared.is_file()):
        return finished[1]
    models = _reference_models(config, [path for path, _ in references])
    named = [(model.path, model.flag) for model in models]
    width = check_references(named, setup.tokenizer, policy, flag)
    for model in named:
        check_context(load_config(*model), config.max_length, f"--max_length {config.max_length}")
    raw, pairs = load_pairs(config, setup)
    comparison = _comparison(config, setup, raw, width, named)
    if finished is None:
        if is_main():
            compared.unlink(missing_ok=True)  # of an earlier run: it would count as this one's
        result, reached_end = _train(config, setup, named, pairs, width)
    else:
        result, reached_end = finished[1], True
    if comparison is not None and reached_end:
        _free_memory()
        trained = Model("policy", str(setup.output_dir), "output_dir")
        comparison.run(trained, models, compared)
    return result


def _reference_models(config: DirectPreferenceConfig, paths: list[str]) -> list[Model]:
    flags = ["ref_a", "ref_b"] if config.refs is None else ["refs"] * len(paths)
    both = zip(paths, flags, strict=True)
    return [Model(f"ref_{k}", path, flag) for k, (path, flag) in enumerate(both)]


def _comparison(
    config: DirectPreferenceConfig,
    setup: Setup,
    rows: Any,
    width: int,
    references: list[tuple[str, str]],
) -> RewardComparison | None:
    """What --rm_name asks for, checked before hours of training; or None."""
    if config.rm_name is None:
        return None
    size = config.per_device_eval_batch_size
    sampling = Sampling(
        num_samples=config.num_samples,
        max_prompt_length=config.max_prompt_length or config.max_length,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        batch_size=size,
        dtype=setup.dtype,
        device=setup.device,
    )
    rewards = TextReward(config.rm_name, "rm_name", setup.dtype, setup.device, size)
    comparison = RewardComparison(rows, setup.tokenizer, width, sampling, rewards)
    for path, flag in (config.policy, *references):
        comparison.check_context(load_config(path, flag))
    return comparison


def _train(
    config: DirectPreferenceConfig,
    setup: Setup,
    references: list[tuple[str, str]],
    pairs: Sequence[Any],
    width: int,
) -> tuple[dict[str, float], bool]:
    """The last evaluation, and whether the end was reached (not after SIGTERM)."""
    size, run = config.per_device_eval_batch_size, setup.run
    run.check_data(**data_facts(config.deepspeed_config, *pairs))
    run.restore_metrics(setup.log)
    stop = StopRequest()
    with setup.log, stop.listening():
        try:
            train, held_out = add_reference_logprobs(
                pairs,
                references,
                setup.tokenizer,
                width,
                setup.dtype,
                setup.device,
                size,
                needed=[rows_to_train_on(config, len(pairs[0])), None],
                stop=stop,
            )
        except StopRequestedError:
            log_main(STOPPED_BEFORE_TRAINING)
            return {}, False
        trainer = _trainer(config, setup, train, width)

        def evaluate(last: bool) -> dict[str, float]:
            engine, pad = trainer.model_wrapped, setup.tokenizer.pad_token_id
            return evaluate_pairs(engine, trainer.objective, held_out, pad, size)

        def save(step: int, last: bool) -> Path:
            folder = setup.output_dir if last else setup.output_dir / f"checkpoint-{step}"
            extras = setup.extras("DPO", progress.result)
            save_model_folder(trainer.model, setup.tokenizer, folder, last, extras)
            return folder

        every = config.eval_steps, config.save_steps, config.logging_steps
        progress = StepProgress(setup.log, evaluate, save, *every)
        finished = trainer.run(config.fine_tuning(), run, progress, stop)
    return progress.result, finished


def rows_to_train_on(config: DirectPreferenceConfig, count: int) -> list[int] | None:
    """Those of the `count` training pairs that the run comes to; None: all."""
    return planned_rows(
        count,
        config.max_steps,
        config.num_train_epochs,
        config.per_device_train_batch_size,
        config.gradient_accumulation_steps,
        world_size(),
        config.seed,
    )


def _trainer(
    config: DirectPreferenceConfig, setup: Setup, train: Any, width: int
) -> MultiReferenceTrainer:
    arguments = trainer_arguments(
        DPOConfig,
        config.fine_tuning(),
        setup,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        remove_unused_columns=False,
        # Without this TRL would load a reference model of its own.
        precompute_ref_log_probs=True,
    )
    model = load_policy(config, setup, width)
    trainer = MultiReferenceTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        processing_class=setup.tokenizer,
        data_collator=PairCollator(setup.tokenizer.pad_token_id),
        peft_config=_lora_config(config, model),
    )
    weights = [weight for _, weight in reference_weights(config, config.kl_type)]
    trainer.objective = PairObjective(weights, config.kl_type, config.gamma, config.max_log_ratio)
    return trainer


def _free_memory() -> None:
    """The engine is gone with `_train`; ZeRO 3 must not partition what is loaded after it."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_policy(config: DirectPreferenceConfig, setup: Setup, width: int) -> Any:
    """The model to train, its logits cut to what all references have."""
    policy, flag = config.policy
    model = load_causal_lm(policy, setup.tokenizer, setup.dtype, flag)
    check_context(model.config, config.max_length, f"--max_length {config.max_length}")
    return cut_vocabulary(model, width)


def _lora_config(config: DirectPreferenceConfig, model: Any) -> Any:
    """Adapters for TRL to add (a model that has them already would get a second set as its
    reference), or None.
    """
    if config.lora_dim == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_dim,
        lora_alpha=LORA_ALPHA,  # type: ignore[arg-type]
        target_modules=lora_targets(model, config.lora_module_name),
    )


def load_pairs(config: DirectPreferenceConfig, setup: Setup) -> tuple[Any, Sequence[Any]]:
    """The held-out rows as they are, and the tokenised training and held-out pairs.

    Columns of the pairs: prompt_ids, chosen_ids, rejected_ids; prompt and response together are cut
    to --max_length.
    """
    data = load_data(
        config.dataset,
        phase="reward",
        data_split="0,1,0",
        seed=config.seed,
        data_output_path=str(data_folder(config)),
        apply_chat_template=config.apply_chat_template,
    )
    warn_of_missing_template(data.train, setup.tokenizer)

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        return encode_preference(
            setup.tokenizer, row, setup.end_token, config.max_length, config.max_prompt_length
        )

    flags = "--max_prompt_length or " * (config.max_prompt_length is not None) + "--max_length"
    pairs = [
        tokenised(rows, encode, what, flags)
        for rows, what in ((data.train, "training pairs"), (data.eval, "held-out pairs"))
    ]
    return data.eval, pairs


def encode_preference(
    tokenizer: Any, row: dict[str, Any], end_token: str, max_length: int, max_prompt: int | None
) -> dict[str, Any]:
    """Token ids of a pair, and `keep`: whether anything can be learnt from it."""
    ids: dict[str, Any] = {}
    for which in ("chosen", "rejected"):
        pair = encode_pair(tokenizer, row["prompt"], row[which], end_token, max_length)
        length = pair["completion_mask"].count(0)
        ids["prompt_ids"] = pair["input_ids"][:length]
        ids[f"{which}_ids"] = pair["input_ids"][length:]
    # Cut to the same tokens, the two texts cannot teach a preference.
    keep = bool(ids["chosen_ids"]) and ids["chosen_ids"] != ids["rejected_ids"]
    short = max_prompt is None or len(ids["prompt_ids"]) <= max_prompt
    return {**ids, "keep": keep and short}
