"""A response stops at the first token with which its text holds a stop text, whoever samples it."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.data.ends import decode_responses, ends_of, saved_ends, set_stops
from dschat.data.stop_texts import StopTexts, StopWatch, bytes_of_tokens
from dschat.errors import UserError
from dschat.rollout.backends.in_place import make_backend
from dschat.rollout.experience import make_rollout
from dschat.rollout.generation import GenerationSettings, uniform_numbers
from dschat.settings.rollout.stops import StopFlags
from small_models import PAD, VOCABULARY, request_for, small_model

# Of the small models: "a" to "z" by id, then pairs, so that a text may begin inside a token.
LETTERS = [chr(97 + i % 26) * (1 + i // 26) for i in range(VOCABULARY)]


def by_letters(texts: list[str]) -> StopTexts:
    return StopTexts(texts, lambda i: LETTERS[i].encode())


def spelt(response: list[int]) -> str:
    return "".join(LETTERS[i] for i in response)


def until(response: list[int], texts: list[str]) -> list[int]:
    """By reading the text of every beginning of a response."""
    for n in range(1, len(response) + 1):
        if any(text in spelt(response[:n]) for text in texts):
            return response[:n]
    return response


@pytest.mark.parametrize("name", ["native", "transformers"])
@pytest.mark.parametrize("greedy", [False, True])
def test_every_backend_stops_where_the_text_is_complete(name: str, greedy: bool) -> None:
    model, limit, last = small_model("llama"), 24, VOCABULARY - 1
    ids = torch.randint(2, VOCABULARY, (32, 5), generator=torch.Generator().manual_seed(3))
    uniform = None if greedy else uniform_numbers(32, limit, seed=0, step=0)
    rows = ids, torch.ones_like(ids)
    engine = SimpleNamespace(module=SimpleNamespace(model=model))
    endless = request_for(rows, uniform, limit, vocabulary=last, ends=(last,))
    whole = make_backend("native", 70, 0.3)(engine, endless)
    # A text of two tokens, one inside a token, and one that is never sampled.
    pair = spelt(whole[0][3:5])
    texts = [pair, LETTERS[whole[1][7]][-1], "zzzzzz"]
    options = {"vocabulary": last, "ends": (last,), "stops": by_letters(texts)}
    asked = request_for(rows, uniform, limit, **options)
    found = make_backend(name, 70, 0.3)(engine, asked)
    assert found == [until(r, texts) for r in whole]
    assert len(set(map(len, found))) > 4
    # One prompt alone: other rows of the batch do not matter.
    alone = request_for(
        (ids[4:5], torch.ones_like(ids[4:5])),
        None if uniform is None else uniform[4:5],
        limit,
        **options,
    )
    assert make_backend(name, 70, 0.3)(engine, alone) == found[4:5]


def test_what_an_engine_makes_behind_the_end_is_cut() -> None:
    settings = GenerationSettings(6, 1.0, (1,), PAD, stops=by_letters(["cd", "gg"]))
    assert settings.until_end([2, 3, 4, 5]) == [2, 3]  # "c", "d", ...
    assert settings.until_end([5, 1, 2, 3]) == [5, 1]
    assert settings.until_end([5, 6, 6, 1]) == [5, 6, 6]
    assert settings.until_end([32, 5]) == [32]  # the token "gg"
    assert settings.until_end([5, 5, 5, 5, 5, 5, 5]) == [5] * 6


def byte_level(tmp_path: Path) -> Any:
    """All bytes, and a few merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Human: né à Paris.\n\nHuman: ja 😀 ja\n\n"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def with_byte_tokens(tmp_path: Path) -> Any:
    """As sentencepiece's: ▁ for spaces, and bytes of characters that have no piece."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<eos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += ["▁", "a", "n", "H", "u", "m", ":", "an", "▁H", "▁Hum"]
    merges = [("a", "n"), ("▁", "H")]
    pieces.remove("▁Hum")
    tokenizer = Tokenizer(
        models.BPE(
            {p: i for i, p in enumerate(pieces)}, merges, byte_fallback=True, unk_token="<unk>"
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def word_pieces(tmp_path: Path) -> Any:
    """Whose tokens say neither bytes nor spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<eos>", "<unk>", "a", "##n", "hu", "##man", ":", "stop"]
    model = models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (byte_level, ["\n\nHuman:", "é", "😀", "aa"]),
        (with_byte_tokens, ["\n\n", "é", " Hu"]),
        (word_pieces, [" human", "man :", "an an"]),
    ],
)
def test_the_first_beginning_whose_decoded_text_has_it(
    make: Any, texts: list[str], tmp_path: Path
) -> None:
    """Random tokens, among them halves of characters, against decoding every beginning."""
    tokenizer = make(tmp_path)
    stops = StopTexts.of(tokenizer, texts)
    spelling = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    draw, hits = random.Random(0), 0
    for _ in range(300):
        ids = [draw.randrange(len(tokenizer)) for _ in range(6)]
        at, stop = draw.randrange(7), draw.choice(spelling)
        ids[at:at] = stop[: draw.randrange(len(stop) + 1)] if draw.random() < 0.3 else stop
        if make is with_byte_tokens:  # half a character in a run hides the whole run in its text
            parts = [draw.choice(["an", "€", "é", "\n", " ", "Hu"]) for _ in range(4)]
            ids = tokenizer("".join(parts))["input_ids"]
        if make is word_pieces:  # the first word has no space before it
            ids = [3, *ids]

        def has(n: int, ids: list[int] = ids) -> bool:
            return any(t in tokenizer.decode(ids[:n], skip_special_tokens=True) for t in texts)

        expected = next((n for n in range(1, len(ids) + 1) if has(n)), None)
        hits += expected is not None
        assert stops.length(ids) == expected, [tokenizer.decode([i]) for i in ids]
        watch = StopWatch(stops, 2)
        each = [watch.over([1], [token])[0] for token in ids]
        assert (each.index(True) + 1 if True in each else None) == expected
    assert 50 < hits < 300


def test_bytes_of_special_and_added_tokens(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    tokenizer.add_tokens(["<think>"])
    find = bytes_of_tokens(tokenizer)
    assert find(tokenizer.eos_token_id) == b""
    assert find(tokenizer.convert_tokens_to_ids("<think>")) == b"<think>"
    assert find(len(tokenizer) + 5) == b""


def stopping(tokenizer: Any, **given: Any) -> Any:
    set_stops(tokenizer, StopFlags(**given))
    return tokenizer


def test_rollouts_texts_and_saved_ends(tiny_tokenizer: Any) -> None:
    t = stopping(tiny_tokenizer, stop_text=["\nHuman"], stop_token=["?"])
    own, stop = t.eos_token_id, t.convert_tokens_to_ids("?")
    assert ends_of(t).ids == (own, stop)
    assert saved_ends(t) == own, "they are the run's, not the model's"
    texts = ["ab\nHuman", "ab?", "ab", "?", "ab\nHuma"]
    responses = [t(text)["input_ids"] for text in texts] + [[*t("a")["input_ids"], own]]
    nothing = [{} for _ in responses]
    blank = [""] * len(responses)
    found = make_rollout(
        [[5]] * 6, responses, blank, blank, nothing, ends_of(t), PAD, torch.device("cpu")
    )
    assert found.ended.tolist() == [True, True, False, True, False, True]
    assert found.dropped.tolist() == [False, False, False, True, False, False]
    # Reward, value and log-probability are read at the last position of this mask.
    assert found.response_mask.sum(1).tolist() == [
        len(r) * (i != 3) for i, r in enumerate(responses)
    ]
    assert decode_responses(t, responses) == ["ab", "ab", "ab", "", "ab\nHuma", "a"]
    stopping(t, stop_text=["\nHuman"], include_stop_text=True)
    assert decode_responses(t, responses)[:2] == ["ab\nHuman", "ab?"]
    stopping(t)
    assert ends_of(t).ids == (own,)
    assert decode_responses(t, responses)[0] == "ab\nHuman"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_token": ["Human: What is"]}, "becomes .* tokens. Use --stop_text"),
        ({"stop_text": ["<eos>"]}, "is a control token .* Use --stop_token '<eos>'"),
    ],
)
def test_what_can_never_stop_is_refused(
    tiny_tokenizer: Any, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        stopping(tiny_tokenizer, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_text": [""]}, "--stop_text '': an empty text"),
        ({"stop_token": ["a", "a"]}, "given twice"),
        ({"include_stop_text": True}, "--include_stop_text needs --stop_text"),
    ],
)
def test_flags_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StopFlags(**given).check_stops()
