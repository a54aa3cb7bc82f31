"""The files of the embedded example: deterministic, disjoint, well-formed."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.example import dataset
from dschat.example.__main__ import main
from dschat.example.dataset import draw_rows, write_dataset
from dschat.example.posts import draw_post


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_same_seed_same_files_other_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_dataset(tmp_path / name, seed, train_size=50, test_size=20)
    for file in ("train.jsonl", "test.jsonl"):
        first, second, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == second
        assert first != other


def test_the_test_rows_do_not_depend_on_the_train_size(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", 1, train_size=5, test_size=20)
    write_dataset(tmp_path / "b", 1, train_size=50, test_size=20)
    assert (tmp_path / "a/test.jsonl").read_bytes() == (tmp_path / "b/test.jsonl").read_bytes()


def test_rows_have_three_string_columns_and_no_prompt_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3, train_size=3000, test_size=300)
    rows = read_rows(tmp_path / "train.jsonl") + read_rows(tmp_path / "test.jsonl")
    assert len(rows) == 3300
    for row in rows:
        assert list(row) == ["prompt", "chosen", "rejected"]
        assert row["prompt"].startswith("POST\nSubreddit: r/")
        assert row["prompt"].endswith("\nTL;DR:")
        assert row["chosen"][0] == row["rejected"][0] == " "
        assert row["chosen"] != row["rejected"]
        assert row["rejected"].strip()
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_a_prompt_drawn_again_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [draw_post(random.Random(seed)) for seed in range(10)]
    monkeypatch.setattr(dataset, "draw_post", lambda rng: rng.choice(pool))
    prompts = [row["prompt"] for row in islice(draw_rows(1), 10)]
    assert sorted(prompts) == sorted(post.prompt for post in pool)


def test_a_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--test_size is 0"):
        write_dataset(tmp_path / "data", 1, train_size=5, test_size=0)
    assert not (tmp_path / "data").exists()


def test_the_command_writes_data_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output_dir", str(tmp_path), "--train_size", "30", "--test_size", "10"]
    assert main(flags) == 0
    assert "30 + 10 rows" in capsys.readouterr().out
    assert read_rows(tmp_path / "data/test.jsonl") == list(islice(draw_rows(1), 10))
    assert (tmp_path / "model/model.safetensors").is_file()
    assert main([*flags[:2], "--train_size", "0"]) == 1
    assert "--train_size is 0" in capsys.readouterr().err
