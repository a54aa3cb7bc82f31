"""The embedded example's tokenizer and untrained model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dschat.example.dataset import draw_rows
from dschat.runtime.files import give_ordinary_permissions

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

PAD_TOKEN, EOS_TOKEN, BOS_TOKEN, UNK_TOKEN = "<|pad|>", "<|endoftext|>", "<|bos|>", "<|unk|>"
VOCABULARY_ROWS = 1000
MAX_LENGTH = 256

# One piece per word with the blank before it, punctuation and line ends by themselves; "TL;DR:",
# "Subreddit:" and "r/NAME" stay whole.
PIECES = r"\n| ?[.,?!]+| ?[^\s.,?!]+|\s"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer trained on generated text: a token for each word, printable ASCII for the rest.

    It is a BPE without merges whose vocabulary holds whole words: a word of the example is one
    token (so that near-synonyms have an embedding each), any other falls apart into characters,
    and a character outside ASCII is `UNK_TOKEN`. The training text is drawn with a fixed seed,
    so that every example model has the same vocabulary.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    special = [PAD_TOKEN, EOS_TOKEN, BOS_TOKEN, UNK_TOKEN]
    # ByteLevel writes a blank as a printable character and a line end likewise.
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = Tokenizer(models.WordLevel(unk_token=UNK_TOKEN))
    words.pre_tokenizer = split
    text = (row[key] for row in islice(draw_rows(0), VOCABULARY_ROWS) for key in row)
    words.train_from_iterator(
        text, trainers.WordLevelTrainer(vocab_size=4096, special_tokens=special)
    )
    vocabulary = words.get_vocab()
    for code in range(32, 127):
        for piece, _ in split.pre_tokenize_str(chr(code)):
            vocabulary.setdefault(piece, len(vocabulary))
    return whole_word_tokenizer(
        vocabulary,
        split,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        bos_token=BOS_TOKEN,
        unk_token=UNK_TOKEN,
        model_max_length=MAX_LENGTH,
    )


def whole_word_tokenizer(
    vocabulary: dict[str, int],
    split: Any,
    added: Sequence[str] = (),
    *,
    unk_token: str,
    **settings: Any,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE without merges whose pieces are whole words.

    Args:
        split: the pre-tokenizer that makes the pieces.
        added: further tokens, not special: they stay in the decoded text.
        settings: of the `PreTrainedTokenizerFast`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token=unk_token, ignore_merges=True)
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk_token,
        clean_up_tokenization_spaces=False,
        **settings,
    )


def model_config(tokenizer: PreTrainedTokenizerFast, max_length: int = MAX_LENGTH) -> LlamaConfig:
    """A Llama of some 0.4 million parameters for this tokenizer."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=max_length,
        # About 1/sqrt(hidden_size). At the usual 0.02 attention starts out uniform over the post,
        # and hundreds of steps pass before the model finds the words to copy.
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def write_model(folder: Path, seed: int) -> None:
    """Write the tokenizer and a model with random weights, fixed by `seed`, to `folder`."""
    tokenizer = build_tokenizer()
    write_untrained(folder, seed, tokenizer, model_config(tokenizer))


def write_untrained(
    folder: Path, seed: int, tokenizer: PreTrainedTokenizerFast, config: LlamaConfig
) -> None:
    """Write a tokenizer and a Llama with random weights, fixed by `seed`, to `folder`."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    give_ordinary_permissions(folder)
