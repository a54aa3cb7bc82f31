"""The flags of GRPO and RLOO with several references."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.algorithm_flags import QUANTIZATIONS, RESIDENCIES
from dschat.settings.answers import FORMS
from dschat.settings.command_line import flag
from dschat.settings.generation import GenerationFlags
from dschat.settings.huggingface import HuggingFaceFlags
from dschat.settings.penalty import DivergenceFlags, WassersteinFlags
from dschat.settings.profiling import ProfileFlags
from dschat.settings.references import REPLACED_MULTI_REFERENCE_FLAGS, ReferenceFlags
from dschat.settings.supervised import ResumeFlags

PENALTIES = ["kl", "f_divergence", "wasserstein", "sinkhorn_divergence"]
REPLACED_GROUP_FLAGS = REPLACED_MULTI_REFERENCE_FLAGS | {
    "logging_steps": "every step is written to metrics.jsonl. Remove the flag",
    "beta_kl": "the strength of the penalty is --gamma",
    "epsilon_low": "the lower half-width of the clip range is --clip_range",
    "scale_reward": "use --scale_rewards",
    "use_vllm": "use --generation_backend vllm",
    "reward_funcs": "the reward is that of checked answers; its parts have weights, such as "
    "--answer_reward",
}


@dataclass
class MultiReferenceFlags(
    ReferenceFlags,
    HuggingFaceFlags,
    DivergenceFlags,
    WassersteinFlags,
    GenerationFlags,
    ResumeFlags,
    ProfileFlags,
):
    """What `gsm8k_grpo.py` takes."""

    gamma: float = flag(0.1, "Strength of the penalty.")
    penalty: str = flag(
        "kl",
        "What holds the policy near its references: kl (as --kl_type says), or sum_k w_k D(policy, "
        "ref_k) with D an f_divergence (--f_div), wasserstein (--transport) or "
        "sinkhorn_divergence.",
        choices=PENALTIES,
    )
    f_div_form: str = flag(
        "gradient",
        "gradient: the first variation, whose policy gradient is that of the divergence itself. "
        "value: the estimate f(x)/x at the sampled token, clipped at 2.5.",
        choices=["value", "gradient"],
    )
    fkl_estimator: str = flag(
        "samples",
        "--kl_type fkl: samples: minus the log-probability of responses drawn from the references, "
        "exact for sum_k w_k KL(ref_k || policy) over whole responses. per_state: the forward KL "
        "from the mixture of references at the policy's own states, a surrogate.",
        choices=["samples", "per_state"],
    )
    reference_samples: int = flag(
        1, "Responses drawn from the references per prompt, once before training (samples)."
    )
    reference_residency: str = flag(
        "all",
        "Where references are while they are not used: all (on the device), cpu (in the host's "
        "memory), one (on disk: loaded one at a time for every scoring).",
        choices=RESIDENCIES,
    )
    reference_quantization: str | None = flag(
        None,
        "Load references in 8 or 4 bits (needs the package bitsandbytes).",
        choices=QUANTIZATIONS,
    )
    frozen_dtype: str | None = flag(
        None,
        "fp32, bf16 or fp16 for the references; unset: that of training. In another one a "
        "reference that is the policy's start differs from it by rounding, and the divergence does "
        "not start at exactly 0.",
    )
    # Data and model
    dataset: list[str] = flag(
        ["gsm8k"],
        "gsm8k, or local files or folders with the columns question and answer ('... #### 72').",
    )
    apply_chat_template: bool = flag(
        False,
        "Write prompts that are plain texts with the model's chat template: a dialogue "
        "(Human: ... Assistant:) as its turns, any other text as a user's turn.",
    )
    data_output_path: str | None = flag(
        None, "Folder for prepared data, kept for the next run; unset: data/ in the output folder."
    )
    model: str | None = flag(
        None, "The policy to start from; unset: ref_a, or the first of --refs."
    )
    output_dir: str | None = flag(None, "Folder for the model, metrics and settings. Required.")
    model_out: str | None = flag(None, "Another name of --output_dir.")
    end_of_conversation_token: str | None = flag(
        None, "Token that ends a response; unset: the tokenizer's own end token."
    )
    pad_token: str | None = flag(None, "Token to pad with, for tokenizers that name none.")
    actor_dropout: float | None = flag(
        None,
        "Every dropout probability of the policy; unset: its own. 0: and nothing else that is "
        "random in training, so that ratios start at 1.",
    )
    lora_dim: int = flag(0, "Rank of LoRA adapters, which are then all that is trained; 0: none.")
    lora_module_name: str = flag(
        "layers.", "Linear layers whose name contains this text get an adapter."
    )
    # Algorithm
    algorithm: str = flag(
        "grpo", "grpo, or rloo (leave-one-out baseline).", choices=["grpo", "rloo"]
    )
    num_generations: int = flag(8, "Responses per prompt, a group.")
    num_iterations: int = flag(1, "Passes over an iteration's responses.")
    scale_rewards: bool = flag(
        False,
        "grpo: divide advantages, penalties included, by the standard deviation of the group's "
        "rewards (where that is below 0.01, by 0.01 to 1; by 1 where all are equal).",
    )
    clip_range: float = flag(0.2, "Probability ratios are clipped to 1 minus this and 1 plus it.")
    epsilon_high: float | None = flag(
        None, "The upper half-width of that interval, where it differs."
    )
    loss_normalization: str = flag(
        "token",
        "token: every token of the global batch weighs the same. sequence: every response does.",
        choices=["token", "sequence"],
    )
    entropy_coef: float = flag(
        0.0,
        "Coefficient of an entropy bonus: the loss is lowered by this times the mean entropy, in "
        "nats, of the tempered policy at the step's response tokens; 0: none.",
    )
    temperature: float = flag(
        1.0, "Sampling temperature; log-probabilities and penalties are of the tempered policies."
    )
    max_prompt_length: int = flag(
        512, "Prompts longer than this many tokens are left out (and counted)."
    )
    max_completion_length: int = flag(256, "Responses stop at this many tokens.")
    per_device_train_batch_size: int = flag(4, "Responses per rank and micro-batch.")
    gradient_accumulation_steps: int = flag(8, "Micro-batches per optimiser step.")
    generation_batch_size: int | None = flag(
        None,
        "Responses sampled at a time per rank; unset: all of an optimiser step "
        "(per_device_train_batch_size x gradient_accumulation_steps).",
    )
    # Rewards
    answer_reward: float = flag(2.0, "Reward for the right number.")
    integer_reward: float = flag(0.5, "Reward for an answer that is an integer.")
    strict_format_reward: float = flag(0.5, "Reward for the exact format.")
    soft_format_reward: float = flag(0.5, "Reward for all tags in their order.")
    tag_reward: float = flag(0.125, "Reward for each of the four tags that occurs once.")
    answer_extraction: list[str] = flag(
        list(FORMS),
        "Where the answer of a response is looked for, in training and evaluation: the first of "
        "these forms that a response has. tags: <answer>. hashes: ####. boxed: \\boxed{}. phrase: "
        "'the answer is'. last_number. 'tags' alone is the published reward; the other parts of "
        "the reward always look at tags.",
    )
    few_shot: int = flag(
        0,
        "Worked examples before every question, in training and evaluation: the first rows of the "
        "training part, which are then not learnt from.",
    )
    # Evaluation and output
    eval_steps: int = flag(
        0,
        "Measure accuracy on the test part every so many optimiser steps; 0: before and after "
        "training only.",
    )
    eval_samples: int | None = flag(None, "At most so many test problems; unset: all.")
    eval_batch_size: int = flag(64, "Test problems per rank at a time.")
    pass_k: list[int] = flag(
        [1, 4],
        "The k of pass@k; as many responses as the largest are sampled per test problem. 0: greedy "
        "accuracy only.",
    )
    save_steps: int = flag(
        0,
        "Save the model to output_dir/step-N/actor every so many optimiser steps (N counts "
        "generation batches); 0: only at the end, to output_dir.",
    )
    print_answers: bool = flag(False, "Print a prompt and its response at every step.")
