"""LoRA adapters through PEFT (Hu et al. 2022, arXiv 2106.09685), merged into plain checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dschat.errors import UserError

# DeepSpeed-Chat scales an adapter's output by 1 / rank, that is, by PEFT's lora_alpha = 1.
LORA_ALPHA = 1.0
ADAPTER = "default"
PEFT_PREFIX = "base_model.model."


def _output_layers(model: Any) -> set[int]:
    """Identities of what makes logits or scores: these layers are trained whole or not at all."""
    heads = [model.get_output_embeddings(), *(getattr(model, n, None) for n in HEAD_NAMES)]
    return {id(head) for head in heads if head is not None}


HEAD_NAMES = ("score", "classifier")


def lora_targets(model: Any, module_name: str, flag: str = "lora_module_name") -> list[str]:
    """Names of the linear layers that contain `module_name`, output layers aside.

    Raises:
        UserError: there is none; names some layers of the model.
    """
    from transformers.pytorch_utils import Conv1D

    outputs = _output_layers(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and id(module) not in outputs
    ]
    chosen = [name for name in linear if module_name in name]
    if not chosen:
        examples = ", ".join(dict.fromkeys([*linear[:2], *linear[-1:]]))
        layers = linear[0].split(".0.")[0] + "." if linear and ".0." in linear[0] else "layers."
        raise UserError(
            f"--{flag} {module_name!r} is part of no linear layer's name in this "
            f"{type(model).__name__}. Its layers are called {examples}; for all of them give "
            f"--{flag} {layers}"
        )
    return chosen


def add_lora(
    model: Any,
    dim: int,
    module_name: str,
    only_optimize_lora: bool = False,
    flag: str = "lora_module_name",
    new_rows: Sequence[int] = (),
) -> Any:
    """Give the linear layers named so an adapter; the model's function is at first unchanged.

    Seed before the call: the A matrices are random (the B matrices are zero).

    Args:
        model: a transformers model; its layers are replaced in place.
        dim: the adapters' rank.
        module_name: see `lora_targets`.
        only_optimize_lora: freeze the base weights. A reward head stays trainable.
        flag: the flag that gave `module_name`, for messages.
        new_rows: tokens that are new to the model: frozen, they could never be trained (see
            `train_rows`).

    Returns:
        The `PeftModel` around `model`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=dim,
        lora_alpha=LORA_ALPHA,  # type: ignore[arg-type]
        target_modules=lora_targets(model, module_name, flag),
    )
    # One dtype for all weights: ZeRO 3 gathers small ones into one buffer.
    peft_model = get_peft_model(model, config, adapter_name=ADAPTER, autocast_adapter_dtype=False)
    for name, parameter in peft_model.named_parameters():
        is_head = name.removeprefix(PEFT_PREFIX).split(".")[0] in HEAD_NAMES
        if "lora_" in name or is_head or not only_optimize_lora:
            parameter.requires_grad_(True)
    if only_optimize_lora and new_rows:
        train_rows(model, new_rows)
    return peft_model


def train_rows(model: Any, rows: Sequence[int]) -> None:
    """Train these rows of the embeddings and of the output layer, and none of their others.

    The others get no gradient, so that Adam leaves them as they are bit for bit; `adamw` gives such
    a weight no decay and the adapters' learning rate. (PEFT's `trainable_token_indices` puts a
    layer around the weight, which everything here that reads the output layer's weight itself, the
    chunked log-probabilities and ZeRO 3's gathering, would read past.)

    Args:
        model: a transformers model, with adapters in its layers or not.
        rows: token ids.
    """

    def only(gradient: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(gradient)
        kept[list(rows)] = gradient[list(rows)]
        return kept

    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [getattr(layer, name, None) for layer in layers for name in ("weight", "bias")]
    for parameter in {id(p): p for p in weights if p is not None}.values():  # tied ones once
        parameter.requires_grad_(True)
        parameter.register_hook(only)
        parameter.trained_rows = tuple(rows)


def is_new_rows(parameter: torch.nn.Parameter) -> bool:
    """Whether `train_rows` has made this weight trainable."""
    return hasattr(parameter, "trained_rows")


def is_lora(name: str) -> bool:
    """Whether a parameter's name is an adapter's."""
    return ".lora_A." in name or ".lora_B." in name


def save_adapter(model: Any, state_dict: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, for `PeftModel.from_pretrained`.

    A reward head, which is trained whole, is among the weights. The base model is named as the user
    named it, a local folder by its absolute path: PEFT looks it up from anywhere.

    Args:
        model: the `PeftModel`; nothing but its adapters (and its reward head) has been trained.
        state_dict: whole tensors under the names of `model`, see `merged_state_dict`.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(
        model, state_dict=dict(state_dict), adapter_name=ADAPTER, save_embedding_layers=False
    )
    heads = [n for n in state_dict if n.removeprefix(PEFT_PREFIX).split(".")[0] in HEAD_NAMES]
    weights |= {name: state_dict[name] for name in heads}
    config = copy.copy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set has no order of its own
    config.task_type = "SEQ_CLS" if heads else "CAUSAL_LM"
    config.modules_to_save = sorted({n.split(".")[-2] for n in heads}) or None
    base = str(config.base_model_name_or_path)
    if Path(base).is_dir():
        config.base_model_name_or_path = str(Path(base).resolve())
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / "adapter_model.safetensors")
    config.save_pretrained(str(folder))


@torch.no_grad()
def merged_state_dict(
    model: Any, state_dict: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The base model's state dict with every adapter added to its weight.

    W + scaling * B A, summed in float32 and given in W's dtype. The model is not changed, so this
    can be called in the middle of training; works on gathered copies, so under ZeRO 3 too.

    Args:
        model: the `PeftModel`, for its layers' scaling.
        state_dict: whole tensors under the names of `model`.
    """
    from peft.tuners.lora import LoraLayer

    merged: dict[str, torch.Tensor] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, tensor in state_dict.items():
        if is_lora(name):
            continue
        layer_name, _, rest = name.partition(".base_layer.")
        if rest == "weight" and layer_name in layers:
            layer: Any = layers[layer_name]
            a = state_dict[f"{layer_name}.lora_A.{ADAPTER}.weight"].float()
            b = state_dict[f"{layer_name}.lora_B.{ADAPTER}.weight"].float()
            delta = layer.scaling[ADAPTER] * (b @ a)
            if layer.fan_in_fan_out:  # GPT-2's Conv1D stores the transpose
                delta = delta.t()
            tensor = (tensor.float() + delta).to(tensor.dtype)
        merged[name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")] = tensor
    return merged
