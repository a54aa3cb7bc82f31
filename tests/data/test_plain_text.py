"""Plain text in blocks: nothing lost, nothing twice, and no more read than a run needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dschat.data import plain_text
from dschat.data.plain_text import open_text, text_blocks
from dschat.errors import UserError

LENGTH = 8


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"text": f"Text number {i} tells of {'tea and ' * (i % 4)}water."} for i in range(40)]
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


def blocks_of(path: Path, tokenizer: Any, count: int, seed: int = 0) -> np.ndarray:
    return text_blocks(open_text(str(path)), str(path), tokenizer, LENGTH, count, seed)


def test_blocks_are_the_runs_of_all_texts_strung_together(corpus: Path, tiny_tokenizer: Any):
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    strung = [i for text in texts for i in tiny_tokenizer(text)["input_ids"]]
    expected = [strung[i : i + LENGTH] for i in range(0, len(strung) - LENGTH + 1, LENGTH)]
    found = blocks_of(corpus, tiny_tokenizer, count=10_000)
    assert sorted(found.tolist()) == sorted(expected)
    assert found.tolist() != expected  # in random order
    assert found.dtype == np.int32
    again = blocks_of(corpus, tiny_tokenizer, count=10_000)
    other = blocks_of(corpus, tiny_tokenizer, count=10_000, seed=1)
    assert np.array_equal(found, again)
    assert not np.array_equal(found, other)


def test_only_as_much_is_tokenised_as_the_run_needs(
    corpus: Path, tiny_tokenizer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(plain_text, "ROWS_AT_ONCE", 5)
    seen = 0

    def counting(texts: list[str], **options: Any) -> Any:
        nonlocal seen
        seen += len(texts)
        return tiny_tokenizer(texts)

    assert len(blocks_of(corpus, counting, count=6)) == 6
    assert seen == 5


def test_a_text_file_is_its_lines(tmp_path: Path, tiny_tokenizer: Any) -> None:
    path = tmp_path / "book.txt"
    path.write_text("The kettle is\nold. The dog chases the fox.\n")
    found = blocks_of(path, tiny_tokenizer, count=10)
    whole = tiny_tokenizer.decode(np.concatenate(sorted(found.tolist(), key=str)))
    assert "\n" in whole


def test_rows_without_text_are_left_out_and_counted(
    tmp_path: Path, tiny_tokenizer: Any, caplog: Any
) -> None:
    path = tmp_path / "some.jsonl"
    good = json.dumps({"text": "The quick brown fox jumps over the lazy dog."})
    path.write_text(f"{good}\nnot json\n{json.dumps({'text': None})}\n{good}\n")
    assert len(blocks_of(path, tiny_tokenizer, count=100)) >= 2
    assert "2 rows" in caplog.text


def test_the_first_column_stands_in_for_text(tmp_path: Path, tiny_tokenizer: Any, caplog: Any):
    path = write_jsonl(tmp_path / "docs.jsonl", [{"content": "The dog and the fox. " * 5}])
    assert len(blocks_of(path, tiny_tokenizer, count=10)) > 0
    assert "'content' is used" in caplog.text


def test_a_folder_and_its_configuration(tmp_path: Path, tiny_tokenizer: Any) -> None:
    (tmp_path / "en").mkdir()
    write_jsonl(tmp_path / "en" / "train.jsonl", [{"text": "The dog and the fox. " * 5}])
    assert len(open_text(str(tmp_path), "en")) == 1
    with pytest.raises(UserError, match="has no folder of that name"):
        open_text(str(tmp_path), "de")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "Hi."}], r"tokens in its column 'text'; a block takes 8 .*Give more text"),
        ([{"numbers": [1, 2]}], "columns numbers; expected a column `text`"),
        ([], "no row that can be read"),
    ],
)
def test_unusable_data_is_refused(
    tmp_path: Path, tiny_tokenizer: Any, rows: list[Any], message: str
) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", rows)
    with pytest.raises(UserError, match=message):
        blocks_of(path, tiny_tokenizer, count=3)


def test_a_name_without_a_network_is_told() -> None:
    with pytest.raises(UserError, match="no such file or folder.*could not be fetched"):
        open_text("no/such-text")
