"""Files that touch another file as soon as somebody runs what is in them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch


class Touch:
    """Unpickling it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def touching_code(path: Path) -> str:
    """Python that makes the file `path` when it is imported."""
    return (
        f"import pathlib\npathlib.Path({str(path)!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class XConfig(LlamaConfig):\n    model_type = 'x'\n"
        "class XModel(LlamaForCausalLM):\n    config_class = XConfig\n"
        "class XTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )


def edit_json(path: Path, **changes: Any) -> None:
    """Change some values of a JSON object."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, **changes}), encoding="utf-8")


def hostile_weights(folder: Path, mark: Path) -> None:
    """Weights that are a pickle with a call among them, in the place of safetensors."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({"lm_head.weight": Touch(mark)}, folder / "pytorch_model.bin")


def hostile_old_weights(folder: Path, mark: Path) -> None:
    """The same as a bare pickle, which torch before 1.6 wrote."""
    hostile_weights(folder, mark)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Touch(mark)}))


def code_beside_a_known_type(folder: Path, mark: Path) -> None:
    """A Llama whose config also names classes of its own."""
    (folder / "modeling_x.py").write_text(touching_code(mark))
    _name_classes(folder)


def code_of_an_unknown_type(folder: Path, mark: Path) -> None:
    """A model that cannot be loaded without its code."""
    code_beside_a_known_type(folder, mark)
    edit_json(folder / "config.json", model_type="x", architectures=["XModel"])


def code_of_the_tokenizer(folder: Path, mark: Path) -> None:
    """A tokenizer with a class of its own, which is needed."""
    (folder / "tokenization_x.py").write_text(touching_code(mark))
    names = {"AutoTokenizer": [None, "tokenization_x.XTokenizer"]}
    edit_json(folder / "tokenizer_config.json", tokenizer_class="XTokenizer", auto_map=names)


def code_that_generates(folder: Path, mark: Path) -> None:
    """A generation loop that comes with the model."""
    (folder / "custom_generate").mkdir()
    code = touching_code(mark) + "def generate(model, **options):\n    return None\n"
    (folder / "custom_generate" / "generate.py").write_text(code)


def hostile_adapter(folder: Path, mark: Path) -> None:
    """A LoRA adapter in the model's folder, which transformers loads with it."""
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": str(folder),
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    torch.save({"base_model.model.x": Touch(mark)}, folder / "adapter_model.bin")


def pickles_that_nobody_asked_for(folder: Path, mark: Path) -> None:
    """What a training run of other tools leaves beside its model."""
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "vocab.pkl"):
        torch.save(Touch(mark), folder / name)


def _name_classes(folder: Path) -> None:
    kinds = ("AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModel")
    names = {"AutoConfig": "modeling_x.XConfig", **dict.fromkeys(kinds, "modeling_x.XModel")}
    edit_json(folder / "config.json", auto_map=names)


MODELS = (
    hostile_weights,
    hostile_old_weights,
    code_beside_a_known_type,
    code_of_an_unknown_type,
    code_of_the_tokenizer,
    code_that_generates,
    hostile_adapter,
    pickles_that_nobody_asked_for,
)
