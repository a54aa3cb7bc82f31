"""Models, prompts and batches of the benchmark of a whole step: random weights, equal lengths."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
NEVER = "<never>"
"""An end token beyond the models' vocabulary: no response ends before its limit."""


@dataclass(frozen=True)
class Size:
    """One setting of the benchmark.

    Attributes:
        model: settings of a transformers config. architecture: its `model_type`.
        responses: of an iteration, one micro-batch and one optimiser step.
        group: responses to one prompt (GRPO).
        prompt, response: tokens.
    """

    name: str
    architecture: str
    model: dict[str, Any]
    responses: int
    group: int
    prompt: int
    response: int
    dtype: str = "fp32"


SIZES = {
    size.name: size
    for size in (
        # The quickstart's model and lengths (dschat/example/model.py, scripts/quickstart.sh).
        Size(
            "tiny",
            "llama",
            {
                "vocab_size": 288,
                "hidden_size": 128,
                "intermediate_size": 320,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "tie_word_embeddings": True,
            },
            responses=64,
            group=8,
            prompt=64,
            response=32,
        ),
        # 20 million parameters, half of them in the embedding.
        Size(
            "20m",
            "llama",
            {
                "vocab_size": 32_000,
                "hidden_size": 320,
                "intermediate_size": 864,
                "num_hidden_layers": 8,
                "num_attention_heads": 5,
                "num_key_value_heads": 5,
                "tie_word_embeddings": True,
            },
            responses=8,
            group=8,
            prompt=256,
            response=128,
        ),
        # SmolLM2-135M's shape.
        Size(
            "135m",
            "llama",
            {
                "vocab_size": 49_152,
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "tie_word_embeddings": True,
            },
            responses=8,
            group=8,
            prompt=64,
            response=32,
        ),
        Size(
            "0.5b",
            "qwen2",
            {
                "vocab_size": 151_936,
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            },
            responses=8,
            group=8,
            prompt=512,
            response=256,
            dtype="bf16",
        ),
        Size(
            "2b",
            "gemma",
            {
                "vocab_size": 256_000,
                "hidden_size": 2048,
                "intermediate_size": 16_384,
                "num_hidden_layers": 18,
                "num_attention_heads": 8,
                "num_key_value_heads": 1,
                "head_dim": 256,
            },
            responses=8,
            group=8,
            prompt=512,
            response=256,
            dtype="bf16",
        ),
    )
}


def words(count: int, vocabulary: int, seed: int) -> str:
    """A text of `count` tokens."""
    draw = random.Random(seed)
    return " ".join(f"t{draw.randrange(3, vocabulary)}" for _ in range(count))


def build_tokenizer(vocabulary: int) -> Any:
    """One token a word, t3 to t(V-1), beside <pad>, <eos> and <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {PAD: 0, EOS: 1, UNKNOWN: 2} | {f"t{i}": i for i in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN
    )


def write_models(size: Size, folder: Path) -> None:
    """folder/actor, a causal LM, and folder/reward, a classifier with one output, for `size`."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    tokenizer = build_tokenizer(size.model["vocab_size"])
    dtype = torch.bfloat16 if size.dtype == "bf16" else torch.float32
    settings = {**size.model, "max_position_embeddings": 4096, "pad_token_id": 0}
    # An end token in the config would end TRL's responses.
    special = {"eos_token_id": None, "bos_token_id": None}
    config = AutoConfig.for_model(size.architecture, **settings, **special)
    for name, kind, extra in (
        ("actor", AutoModelForCausalLM, {}),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}),
    ):
        torch.manual_seed(0)
        config.update(extra)
        model = kind.from_config(config, dtype=dtype)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        del model


def score_text(prompts: list[str], responses: list[str], *_: Any) -> list[float]:
    """A reward that costs nothing and differs within a group: the share of short words."""
    return [sum(len(w) < 5 for w in r.split()) / max(1, len(r.split())) for r in responses]
