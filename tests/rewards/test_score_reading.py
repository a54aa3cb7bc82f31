"""A reward model is trained, evaluated, scored and loaded anywhere at one token: the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from dschat.data.text import encode_pair, prompt_ids
from dschat.models import score_reading
from dschat.models.loading import load_reward_model, load_tokenizer
from dschat.models.score_reading import last_tokens, padding_apart
from dschat.rewards.reward_model import RewardModel
from dschat.rewards.text_reward import TextReward
from dschat.settings.supervised import RewardModelingConfig
from dschat.supervised.reward_modeling import train_reward_model
from preferences import NAMES
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

CPU = torch.device("cpu")
# Like those of Qwen and SmolLM2: something follows the end token.
TEMPLATE = (
    "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)
Save = Callable[..., str]


@pytest.fixture(autouse=True)
def every_message(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    score_reading._say_once.cache_clear()


@pytest.fixture
def end_pads(tiny_tokenizer: Any) -> Any:
    """A tokenizer whose end token pads as well, with a chat template."""
    tokenizer = tiny.build_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def save(end_pads: Any, tmp_path: Path) -> Save:
    """Writes a random classifier (or language model) as its authors would, without our mark."""

    def make(name: str, kind: Any = LlamaForSequenceClassification) -> str:
        torch.manual_seed(5)
        config = tiny.tiny_config(end_pads, num_labels=1, initializer_range=0.3)
        kind(config).save_pretrained(tmp_path / name)
        end_pads.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


def pairs(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Conversations whose better and worse answers differ at every place but the end."""
    found = []
    for i in range(first, first + count):
        name = NAMES[i % len(NAMES)]
        talk = [
            {"role": "user", "content": f"Name number {i}, the {name}. " + "Please. " * (i % 3)}
        ]
        answers = [f"The {name}.", "No, I do not know that one, ask " + "me " * (i % 4) + "again."]
        chosen, rejected = ([*talk, {"role": "assistant", "content": a}] for a in answers)
        found.append({"prompt": talk, "chosen": chosen, "rejected": rejected, "answers": answers})
    return found


@pytest.fixture
def trained(save: Save, tmp_path: Path) -> tuple[Path, list[dict[str, Any]], dict[str, float]]:
    """Step 2 from a language model whose end token pads: its folder, held-out pairs and metrics."""
    held_out = pairs(12, first=100)
    for name, part in (("train", pairs(32)), ("test", held_out)):
        lines = [json.dumps({k: row[k] for k in ("chosen", "rejected")}) for row in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    config = RewardModelingConfig(
        model_name_or_path=save("policy", LlamaForCausalLM),
        data_path=[str(tmp_path)],
        data_split="0,1,0",
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=5,
        learning_rate=3e-3,
        num_train_epochs=2,
    )
    config.validate()
    result = train_reward_model(config)
    return tmp_path / "out" / "step_16", held_out, result


@torch.no_grad()
def by_hand(folder: str | Path, ids: list[int], place: int = -1) -> float:
    """The head at one token's state, without any padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return float(model.score(model.model(torch.tensor([ids])).last_hidden_state)[0, place, 0])


@torch.no_grad()
def by_transformers(
    folder: str | Path, texts: list[list[int]], pad: int | None = None
) -> list[float]:
    """What a user of plain transformers gets: one right-padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer.pad({"input_ids": texts}, return_tensors="pt", padding_side="right")
    return model(**batch).logits[:, 0].tolist()


def test_one_token_everywhere_where_the_end_token_pads(
    trained: Any, end_pads: Any, tmp_path: Path
) -> None:
    folder, held_out, result = trained
    talks = [(row["prompt"], answer) for row in held_out for answer in row["answers"]]
    texts = [
        prompt_ids(end_pads, [talk])[0]
        + end_pads(answer, add_special_tokens=False)["input_ids"]
        + [end_pads.eos_token_id]
        for talk, answer in talks
    ]
    assert len({len(ids) for ids in texts}) > 5
    truth = [by_hand(folder, ids) for ids in texts]
    # Before the mend the two differed by more than the scores themselves.
    assert truth != pytest.approx([by_hand(folder, ids, -2) for ids in texts], abs=0.1)

    # Evaluation in training.
    chosen, rejected = torch.tensor(truth).view(-1, 2).unbind(1)
    assert result["eval_accuracy"] == (chosen > rejected).double().mean().item() == 1.0
    assert result["eval_chosen_score"] == pytest.approx(chosen.mean().item(), abs=1e-4)
    assert result["eval_rejected_score"] == pytest.approx(rejected.mean().item(), abs=1e-4)
    # Step 3's reward, on the policy's tokens with the policy's padding.
    tokenizer = load_tokenizer(str(tmp_path / "policy"))
    assert tokenizer.pad_token == tokenizer.eos_token
    model = load_reward_model(str(folder), tokenizer, torch.float32)
    reward = RewardModel(model, tokenizer.pad_token_id, 5, CPU)
    examples = [{"prompt_ids": ids[:3], "response_ids": ids[3:]} for ids in texts]
    assert reward([""] * len(texts), [""] * len(texts), examples) == pytest.approx(truth, abs=1e-4)
    # --rm_name, --ref-scores and everything else that scores texts.
    scorer = TextReward(str(folder), "rm_name", torch.float32, CPU, batch_size=5)
    assert [scorer.encode(*talk) for talk in talks] == texts
    found = scorer([talk for talk, _ in talks], [answer for _, answer in talks])
    assert found == pytest.approx(truth, abs=1e-4)
    # Anybody else.
    assert by_transformers(folder, texts) == pytest.approx(truth, abs=1e-4)
    config = json.loads((folder / "config.json").read_text())
    assert config["pad_token_id"] != config["eos_token_id"] == end_pads.eos_token_id
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == end_pads.get_vocab()


def test_a_public_model_whose_end_token_pads_is_read_as_transformers_does(
    save: Save, end_pads: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save("public")
    talk, answers = [{"role": "user", "content": "Name it."}], ["Yes.", "No, never, not at all."]
    whole = [
        end_pads.apply_chat_template(
            [*talk, {"role": "assistant", "content": answer}], tokenize=False
        )
        for answer in answers
    ]
    texts = [end_pads(text, add_special_tokens=False)["input_ids"] for text in whole]
    scorer = TextReward(folder, "rm_name", torch.float32, CPU, batch_size=2)
    assert [scorer.encode(talk, answer) for answer in answers] == texts
    expected = by_transformers(folder, texts)
    assert scorer([talk, talk], answers) == pytest.approx(expected, abs=1e-5)
    # A plain prompt has no template: the end token is skipped.
    plain = [end_pads(f"Human: egg{answer}<eos>")["input_ids"] for answer in answers]
    expected = by_transformers(folder, plain)
    assert scorer(["Human: egg"] * 2, answers) == pytest.approx(expected, abs=1e-5)
    assert expected == pytest.approx([by_hand(folder, ids, -2) for ids in plain], abs=1e-5)
    assert "as transformers does" in caplog.text


def test_folders_of_older_versions_say_so_and_are_read_where_they_were_trained(
    save: Save, end_pads: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(
        "eval_iters: 100\nnum_padding_at_beginning: 0\nrun: {world_size: 1}\n"
    )
    folder = save("run/step_16")
    talk = [{"role": "user", "content": "Name it."}]
    scorer = TextReward(folder, "rm_name", torch.float32, CPU, batch_size=2)
    ids = scorer.encode(talk, "Yes.")
    # What step 2 trained: nothing follows the end token; and transformers' head read before it.
    assert ids == encode_pair(end_pads, talk, "Yes.", "<eos>", 999)["input_ids"]
    assert scorer([talk], ["Yes."]) == pytest.approx([by_hand(folder, ids, -2)], abs=1e-5)
    assert "saved by an older version" in caplog.text
    assert "step 2" in caplog.text


def test_a_continued_reward_model_is_trained_at_the_end_from_then_on(save: Save) -> None:
    folder = save("public")
    tokenizer = load_tokenizer(folder)
    model = load_reward_model(folder, tokenizer, torch.float32, head_may_be_new=True)
    ids = encode_pair(tokenizer, "Human: egg", " Yes.", "<eos>", 99)["input_ids"]
    score_reading.read_at_last_token(model.eval())
    batch = torch.tensor([[*ids, 1, 1, 1]])
    mask = torch.tensor([[1] * len(ids) + [0] * 3])
    found = model(input_ids=batch, attention_mask=mask).logits.item()
    assert found == pytest.approx(by_hand(folder, ids), abs=1e-5)


def test_places() -> None:
    ids = torch.tensor([[5, 6, 2, 2, 2], [2, 2, 7, 8, 9], [2, 2, 2, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert last_tokens(ids, mask).tolist() == [2, 4, 4]
    assert last_tokens(ids, mask, skipped=2).tolist() == [1, 4, 0]


def test_which_token_pads(end_pads: Any) -> None:
    """None that ends a text, and one that is there."""
    assert padding_apart(tiny.build_tiny_tokenizer()) == "<pad>"
    assert padding_apart(end_pads) == "<pad>"

    class Tokenizer:
        """Names of special tokens as in some published tokenizers."""

        def __init__(self, end: str, special: list[str], unk: str | None = None) -> None:
            self.eos_token, self.pad_token, self.unk_token = end, end, unk
            self.bos_token, self.chat_template = special[0], "<|im_start|>user\n<|im_end|>\n"
            content = [type("Token", (), {"content": t, "special": True}) for t in special]
            self.added_tokens_decoder = dict(enumerate(content))

    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    for end, special, unk, expected in (
        ("<|im_end|>", [*chat, "<repo_name>"], "<|endoftext|>", "<|endoftext|>"),  # SmolLM2
        ("<|endoftext|>", [*chat, "<|vision_pad|>"], None, "<|vision_pad|>"),  # Qwen2.5
        ("</s>", ["<s>", "</s>"], "<unk>", "<unk>"),  # Mistral
        ("<|eot_id|>", ["<|b|>", "<|end_of_text|>", "<|r_0|>", "<|eot_id|>"], None, "<|r_0|>"),
        ("<|endoftext|>", ["<|endoftext|>"], "<|endoftext|>", None),  # GPT-2
    ):
        assert padding_apart(Tokenizer(end, special, unk)) == expected


def test_a_vocabulary_without_another_special_token(tmp_path: Path) -> None:
    """Saved without padding: transformers then scores one text at a time, at its last token."""
    from transformers import PreTrainedTokenizerFast

    plain = tiny.build_tiny_tokenizer()
    backend = json.loads(plain.backend_tokenizer.to_str())
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["content"] == "<eos>"]
    from tokenizers import Tokenizer

    raw = Tokenizer.from_str(json.dumps(backend))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>")
    assert padding_apart(tokenizer) is None
    config = tiny.tiny_config(tokenizer, num_labels=1, initializer_range=0.3)
    model = LlamaForSequenceClassification(config)
    saved = score_reading.as_reward_model(model.config, tokenizer)
    model.save_pretrained(tmp_path)
    saved.save_pretrained(tmp_path)
    scorer = TextReward(str(tmp_path), "rm_name", torch.float32, CPU, batch_size=2)
    prompts, answers = ["Human: egg", "Human: a kettle"], [" yes", " no, never"]
    found = scorer(list(prompts), answers)
    for prompt, answer, value in zip(prompts, answers, found, strict=True):
        ids = scorer.encode(prompt, answer)
        assert ids[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            read = AutoModelForSequenceClassification.from_pretrained(tmp_path)
            assert value == pytest.approx(read(torch.tensor([ids])).logits.item(), abs=1e-5)
