"""Small random causal language models of several architectures."""

from __future__ import annotations

from typing import Any

END, PAD, VOCABULARY = 1, 0, 60
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gpt2": {},
    "qwen2": {"num_key_value_heads": 2},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
    "falcon": {"new_decoder_architecture": False, "multi_query": True},
    "mistral": {"sliding_window": 4, "num_key_value_heads": 2},
}


def small_model(kind: str) -> Any:
    """Two layers of width 32, sharp enough that mistakes show."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "pad_token_id": PAD,
            "eos_token_id": END,
            "bos_token_id": None,
            **SMALL[kind],
        },
    )
    return AutoModelForCausalLM.from_config(config).eval()


def padded(prompts: list[list[int]]) -> tuple[Any, Any]:
    """[B, P] ids and attention mask of prompts, padded on the left."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    return ids, torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])


def request_for(
    rows: tuple[Any, Any],
    uniform: Any,
    limit: int,
    temperature: float = 0.8,
    vocabulary: int | None = None,
    ends: tuple[int, ...] = (END,),
    **options: Any,
) -> Any:
    """A `GenerationRequest` for prompts `padded` as rows; `options`: top_k, stops, kept."""
    from dschat.rollout.generation import GenerationRequest, GenerationSettings

    top_k, stops = options.pop("top_k", None), options.pop("stops", None)
    settings = GenerationSettings(limit, temperature, ends, PAD, vocabulary, top_k, stops)
    return GenerationRequest(*rows, uniform, settings, **options)
