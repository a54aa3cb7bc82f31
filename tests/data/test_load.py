"""From paths to a phase's rows: the cut, what is held out, blends, and what is dropped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from dschat.data.load import LoadedData, load_data
from dschat.data.rows import PHASES, decode_example
from dschat.data.splits import split_indices
from dschat.data.text import VERBATIM_ROLE, conversation_text
from dschat.errors import UserError
from dschat.runtime.files import write_jsonl

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
PROMPT = "prompt"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(path: Any, phase: Any = "sft", split: str = "2,4,4", **settings: Any) -> LoadedData:
        paths = [path] if isinstance(path, str | Path) else path
        settings = {"data_output_path": str(tmp_path / "cache"), "seed": 1234, **settings}
        return load_data([str(p) for p in paths], phase, split, **settings)

    return load


@pytest.fixture
def pairs(tmp_path: Path, makers: Any, write_rows: Any) -> Path:
    """100 training pairs and 10 to evaluate on."""
    write_rows(tmp_path / "pairs" / "train.jsonl", makers["preferences"], 100)
    write_rows(tmp_path / "pairs" / "test.jsonl", makers["preferences"], 10, 1000)
    return tmp_path / "pairs"


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_gets_its_part_in_the_order_of_the_cut(
    phase: Any, load: Any, pairs: Path
) -> None:
    data = load(pairs, phase)
    part = split_indices(100, "2,4,4", 1234)[PHASES.index(phase)].tolist()
    assert data.train["row"][:] == part
    assert data.train[PROMPT][:] == [f"\n\nHuman: Question {i}?\n\nAssistant:" for i in part]
    assert data.eval["row"][:] == list(range(10))
    assert "Question 1000" in data.eval[0]["prompt"]
    assert (data.train[0]["chosen"] is None) == (phase == "rl")
    assert (data.train[0]["rejected"] is None) == (phase != "reward")


def test_without_an_evaluation_split_5_percent_are_held_out_of_every_phase(
    load: Any, pairs: Path
) -> None:
    path = pairs / "train.jsonl"
    loaded = [load(path, phase) for phase in PHASES]
    kept, held_out = split_indices(100, (95, 5), 1234)
    assert all(data.eval["row"][:] == held_out.tolist() for data in loaded)
    trained = [row for data in loaded for row in data.train["row"][:]]
    assert sorted(trained) == sorted(kept.tolist())
    assert len(held_out) == 5
    # The phases cut what is kept, as they would cut a data set of that size.
    second = split_indices(95, "2,4,4", 1234)[1]
    assert loaded[1].train["row"][:] == kept[second].tolist()


def test_rows_that_cannot_be_used_are_dropped_after_the_cut_and_reported(
    load: Any, makers: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [makers["preferences"](i) for i in range(40)]
    bad = {
        3: {**rows[3], "chosen": "  "},
        7: {k: v for k, v in rows[7].items() if k != "rejected"},
        11: {**rows[11], "prompt": 12},
        15: {**rows[15], "rejected": rows[15]["chosen"]},
        **{i: {**rows[i], "rejected": None} for i in (19, 31, 33, 35, 37, 39)},
    }
    lines = [json.dumps(bad.get(i, row)) for i, row in enumerate(rows)]
    lines[23] = '{"prompt": "torn'
    lines[27] = '"a text"'
    path = tmp_path / "pairs" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("\n\n".join(lines) + "\n")
    write_jsonl(path.with_name("test.jsonl"), rows[:2])
    with caplog.at_level(logging.INFO):
        data = load(path.parent, "reward", "0,1,0")
    order = split_indices(40, "0,1,0", 1234)[1].tolist()
    assert data.train["row"][:] == [i for i in order if i not in {*bad, 23, 27}]
    (source,) = data.report.sources
    assert (source.train.raw, source.train.selected) == (40, 40)
    assert (source.train.rows, source.train.dropped) == (28, 12)
    found = {p.kind: (p.count, p.first) for p in source.train.problems}
    # Row i stands in line 2 i + 1, between blank lines.
    assert found == {
        "empty 'chosen'": (1, "train.jsonl, line 7"),
        "missing field 'rejected'": (7, "train.jsonl, line 15"),
        "field 'prompt' is not a string": (1, "train.jsonl, line 23"),
        "chosen and rejected are the same": (1, "train.jsonl, line 31"),
        "not valid JSON": (1, "train.jsonl, line 47"),
        "not a JSON object": (1, "train.jsonl, line 55"),
    }
    assert "7 x missing field 'rejected' (first: train.jsonl, line 15)" in caplog.text


def test_the_report_is_the_same_from_the_cache_and_silent_on_other_ranks(
    load: Any, pairs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (pairs / "train.jsonl").read_text().splitlines()
    (pairs / "train.jsonl").write_text("\n".join([*lines, "{}"]))
    first = load(pairs, "rl", "0,0,1")
    assert first.report.sources[0].train.dropped == 1
    monkeypatch.setenv("RANK", "1")
    caplog.clear()
    assert load(pairs, "rl", "0,0,1").report == first.report
    assert caplog.text == ""


def test_no_usable_row_is_an_error_that_lists_the_problems(
    load: Any, makers: Any, tmp_path: Path
) -> None:
    rows = [{**makers["preferences"](i), "chosen": ""} for i in range(30)]
    write_jsonl(tmp_path / "pairs.jsonl", [*rows, {"prompt": "a"}, {"prompt": 5, "chosen": "b"}])
    with pytest.raises(UserError) as caught:
        load(tmp_path / "pairs.jsonl", "sft", "1,0,0")
    message = str(caught.value)
    assert "no usable row" in message
    assert "empty 'chosen'" in message
    assert "pairs.jsonl, line" in message
    assert list((tmp_path / "cache").iterdir()) == []
    load(tmp_path / "pairs.jsonl", "rl", "0,0,1")


def test_a_broken_evaluation_split_is_an_error(load: Any, pairs: Path) -> None:
    write_jsonl(pairs / "test.jsonl", [{"prompt": "a"}])
    with pytest.raises(UserError, match=r"no usable row among the 1 of the evaluation split"):
        load(pairs)


def test_a_phase_without_a_share_is_an_error(load: Any, pairs: Path) -> None:
    with pytest.raises(UserError, match=r"gives no rows to --data_split 2,8,0 \(rl\)"):
        load(pairs, "rl", "2,8,0")


def test_a_tiny_file_trains_without_evaluation_rows(
    load: Any, makers: Any, write_rows: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = load(write_rows(tmp_path / "few.jsonl", makers["preferences"], 4), split="1,0,0")
    assert (len(data.train), len(data.eval)) == (4, 0)
    assert data.eval.column_names == data.train.column_names
    assert "no evaluation rows" in caplog.text


def test_data_sets_are_blended_after_each_ones_own_cut(
    load: Any, pairs: Path, makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    write_rows(tmp_path / "posts" / "train.jsonl", makers["summaries"], 50)
    write_rows(tmp_path / "posts" / "validation.jsonl", makers["summaries"], 3)
    data = load([pairs, tmp_path / "posts"], "reward")
    assert len(data.train) == 40 + 20
    assert len(data.eval) == 10 + 3
    cuts = [split_indices(size, "2,4,4", 1234)[1].tolist() for size in (100, 50)]
    assert data.train["row"][:] == cuts[0] + cuts[1]
    assert data.train["source"][:] == [str(pairs)] * 40 + [str(tmp_path / "posts")] * 20
    assert [source.schema for source in data.report.sources] == ["preferences", "summaries"]


def test_sft_only_data_goes_wholly_to_sft(
    load: Any, pairs: Path, makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    write_rows(tmp_path / "only" / "train.jsonl", makers["preferences"], 30)
    write_rows(tmp_path / "only" / "test.jsonl", makers["preferences"], 1)
    data = load(pairs, sft_only_data_path=[str(tmp_path / "only")])
    assert len(data.train) == 20 + 30
    with pytest.raises(UserError, match="--sft_only_data_path"):
        load(pairs, "reward", sft_only_data_path=[str(tmp_path / "only")])


def test_plain_and_chat_prompts_blend(
    load: Any, pairs: Path, makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    write_rows(tmp_path / "gsm8k" / "train.jsonl", makers["gsm8k"], 50)
    write_rows(tmp_path / "gsm8k" / "test.jsonl", makers["gsm8k"], 2)
    data = load([pairs, tmp_path / "gsm8k"], "rl")
    plain, chat = data.train[0], data.train[-1]
    assert [message["role"] for message in plain["prompt"]] == [VERBATIM_ROLE]
    assert conversation_text(plain["prompt"], None).startswith("\n\nHuman: Question")
    assert [message["role"] for message in chat["prompt"]] == ["system", "user"]
    assert decode_example(chat["example"])["answer"].startswith("It is ")
    assert decode_example(plain["example"]) == {}


@pytest.mark.parametrize("name", ["gsm8k", "apps"])
def test_data_without_pairs_is_refused_for_reward_modelling(
    name: str, load: Any, makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no pairs .* preferences"):
        load(write_rows(tmp_path / "a.jsonl", makers[name], 30), "reward")


def test_apps_has_a_row_per_solution(
    load: Any, makers: Any, write_rows: Any, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "a.jsonl", makers["apps"], 40)
    sft, rl = load(path, "sft", "1,0,1"), load(path, "rl", "1,0,1")
    assert (len(sft.train), len(rl.train)) == (38, 19)
    assert sft.report.sources[0].train.selected == 19
    assert json.loads(decode_example(rl.train[0]["example"])["input_output"])["inputs"]


@pytest.mark.parametrize("data_split", ["1,1", "1,1,1,1"])
def test_the_split_has_a_part_for_every_phase(data_split: str, load: Any, pairs: Path) -> None:
    with pytest.raises(UserError, match="expected three numbers"):
        load(pairs, split=data_split)


def test_some_data_must_be_given(load: Any) -> None:
    with pytest.raises(UserError, match="--data_path"):
        load([])


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real data are not on this machine")
def test_real_preference_pairs(load: Any) -> None:
    loaded = [load(SHARED_DATA / "hh_rlhf", phase) for phase in PHASES]
    assert [len(data.train) for data in loaded] == [142, 285, 285]
    assert sorted(i for data in loaded for i in data.train["row"][:]) == list(range(712))
    assert all(
        len(data.eval) == 143 and data.report.sources[0].train.dropped == 0 for data in loaded
    )
    assert loaded[1].train[0]["prompt"].endswith("Assistant:")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real data are not on this machine")
def test_real_mathematics(load: Any) -> None:
    data = load(SHARED_DATA / "gsm8k", "rl", "0,0,1")
    assert (len(data.train), len(data.eval)) == (7473, 500)
    assert data.report.sources[0].schema == "gsm8k"
    sft = load(SHARED_DATA / "gsm8k", "sft", "1,0,0")
    assert all("<<" not in response for response in sft.train["chosen"][:])
    assert all(response.endswith("</answer>") for response in sft.train["chosen"][:])
