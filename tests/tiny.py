"""A tiny tokenizer and a tiny Llama config, for models built in no time."""

from __future__ import annotations

from typing import Any

TINY_CORPUS = [
    "Human: What is the capital of France? Assistant: The capital of France is Paris.",
    "Human: How do I boil an egg? Assistant: Put the egg in boiling water for seven minutes.",
    "POST\nSubreddit: r/tea\nMy kettle broke and I need a new one.\nTL;DR: kettle broke",
    "The quick brown fox jumps over the lazy dog, and then the dog chases the fox.",
]
TINY_VOCABULARY = 200


def build_tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer for ASCII text with 200 tokens; pad, eos and bos all differ."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    printable = [chr(code) for code in range(33, 127)]
    # In byte-level BPE the space is written Ġ and the newline Ċ.
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=[*printable, "Ġ", "Ċ"],
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TINY_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )


def tiny_config(tokenizer: Any, **settings: Any) -> Any:
    """A Llama config with two layers of width 32."""
    from transformers import LlamaConfig

    return LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            **settings,
        }
    )
