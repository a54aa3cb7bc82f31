"""Programming problems as data, and a tiny model that knows a right and a wrong program of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dschat.example.programs import PROBLEMS, program_rows
from tiny import tiny_config
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

SHORTEST = sorted(range(len(PROBLEMS)), key=lambda i: len(PROBLEMS[i].solution))[:8]


def code_tokenizer() -> Any:
    """A tokenizer of the example's problems and programs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for p in PROBLEMS for text in (p.question, p.solution, p.mistake)]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>"
    )


def make_programs(root: Path) -> Path:
    """data/{train,test}.jsonl with 8 problems, and sft: a model that knows a solution and a mistake
    of each.
    """
    rows = program_rows()
    (root / "data").mkdir()
    lines = [json.dumps(rows[i]) for i in SHORTEST]
    for name in ("train", "test"):
        (root / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    tokenizer = code_tokenizer()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        tiny_config(tokenizer, hidden_size=64, intermediate_size=128)
    )
    texts = []
    for i in SHORTEST:
        prompt = f"### Problem:\n{rows[i]['question']}\n\n### Response:\n"
        for program in (PROBLEMS[i].solution, PROBLEMS[i].mistake):
            texts.append((tokenizer(prompt)["input_ids"], tokenizer(program)["input_ids"] + [1]))
    width = max(len(p) + len(r) for p, r in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, response) in enumerate(texts):
        ids[row, : len(prompt + response)] = torch.tensor(prompt + response)
        labels[row, len(prompt) : len(prompt + response)] = torch.tensor(response)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.15, "the model must know its programs"
    model.save_pretrained(root / "sft")
    tokenizer.save_pretrained(root / "sft")
    return root
