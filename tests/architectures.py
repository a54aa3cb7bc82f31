"""Tiny random models of every causal architecture that transformers builds in no time."""

from __future__ import annotations

import re
from typing import Any

VOCABULARY, PAD, END, BEGIN = 60, 0, 1, 2

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "dim_model"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "dim_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    "n_inner": None,
    "num_key_value_heads": 4,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": BEGIN,
}
"""What a config calls its sizes; each sets those that it has."""

DECODER = {"is_decoder": True}
OWN: dict[str, dict[str, Any]] = {
    "bert-generation": DECODER,
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "layer_types": ["mamba", "attention"],
    },
    "helium": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm3": {"num_hidden_layers": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minimax": {"num_hidden_layers": 4},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zaya": {"num_experts_per_tok": 1},
    "xglm": {"attention_heads": 4},
}

NAMES = """
afmoe apertus arcee aria_text axk2 bamba beam bert-generation biogpt bitnet bloom codegen cohere
cohere2 cohere2_moe ctrl cwm deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 doge ernie4_5
ernie4_5_moe exaone4 exaone_moe falcon falcon_mamba flex_olmo flint gemma gemma2 gemma3_text
gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt-sw3 gpt2 gpt_bigcode gpt_neo
gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
granitemoehybrid granitemoeshared helium hrm_text hy_v3 hyperclovax inkling2_text internlm3
iquestcoder jais2 jamba jetmoe kolibri1 laguna lfm2 lfm3 llama longcat_flash mamba mamba2 mellum
minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral3 mistral mixtral moshi mpt nanochat
nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe
qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3
solar_open stablelm starcoder2 vaultgemma xglm youtu zaya
"""
SUPPORTED = NAMES.split()

REFUSED = {
    "bert": "does more than a linear layer",
    "modernbert-decoder": "does more than a linear layer",
    "roberta": "does more than a linear layer",
    "rwkv": "ignores the attention mask",
    "recurrent_gemma": "ignores the attention mask",
    "cpmant": "ignores the attention mask",
    "bart": "ignores the attention mask",  # its learnt positions count from the padding
    "llama4_text": "no body under",
}


def tiny_config(kind: str, noise: float | None = None) -> Any:
    """A config of that architecture.

    Args:
        noise: of everything whose name says that it is random in training.
    """
    from transformers import AutoConfig

    make = type(AutoConfig.for_model(kind))
    default = make()
    sizes = {name: value for name, value in SIZES.items() if hasattr(default, name)}
    config = make(**{**sizes, "pad_token_id": PAD, **OWN.get(kind, {})})
    if noise is not None:
        for name, value in list(vars(config).items()):
            if re.search("drop|jitter", name) and type(value) is float:
                setattr(config, name, noise)
    return config


def tiny_architecture(kind: str, noise: float | None = None) -> Any:
    """A random model of it, in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(kind, noise)).eval()
