"""What several tests share: a tiny tokenizer and tiny random Llama models, built in a second."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tiny import build_tiny_tokenizer, tiny_config

# Two test processes on two cores: torch's own threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """See `build_tiny_tokenizer`."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama for causal language modelling and its tokenizer."""
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reward_dir(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama with one score per text, and its tokenizer."""
    import torch
    from transformers import LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny_reward")
    torch.manual_seed(1)
    config = tiny_config(tiny_tokenizer, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
