"""The example's tokenizer and model, as any script would load them."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from dschat.example import grammar
from dschat.example.dataset import draw_rows
from dschat.example.model import MAX_LENGTH, build_tokenizer, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    state = torch.random.get_rng_state()
    write_model(folder, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def test_generated_text_makes_the_round_trip_and_splits_at_the_response(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    for row in islice(draw_rows(7), 300):
        prompt = tokenizer(row["prompt"])["input_ids"]
        for key in ("chosen", "rejected"):
            ids = tokenizer(row["prompt"] + row[key])["input_ids"]
            assert tokenizer.decode(ids) == row["prompt"] + row[key]
            assert ids == prompt + tokenizer(row[key])["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert len(ids) < MAX_LENGTH // 2


def test_each_fact_word_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    for word in grammar.FACT_OF_WORD:
        assert tokenizer.tokenize(f" {word}") == [f"Ġ{word}"]


def test_other_text_falls_apart_into_characters(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Zebras, 42 of them! (really?)"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id in tokenizer("é")["input_ids"]


def test_special_tokens_differ_and_survive_saving(tokenizer: PreTrainedTokenizerBase) -> None:
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    special += [tokenizer.bos_token_id, tokenizer.unk_token_id]
    assert None not in special
    assert len(set(special)) == 4
    assert tokenizer("a<|endoftext|>")["input_ids"][-1] == tokenizer.eos_token_id
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_the_model_loads_and_generates(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert 2e5 < sum(parameter.numel() for parameter in model.parameters()) < 2e6
    prompts = [row["prompt"] for row in islice(draw_rows(7), 4)]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    logits = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    assert torch.isfinite(logits).all()
    out = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=5,
        do_sample=False,
    )
    assert out.shape[1] <= batch["input_ids"].shape[1] + 5


def test_weights_are_fixed_by_the_seed(folder: Path, tmp_path: Path) -> None:
    def weights(path: Path) -> dict[str, torch.Tensor]:
        return AutoModelForCausalLM.from_pretrained(path).state_dict()

    write_model(tmp_path / "same", seed=1)
    write_model(tmp_path / "other", seed=2)
    first, same, other = weights(folder), weights(tmp_path / "same"), weights(tmp_path / "other")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
