"""What the rows of every data set become, and which of them cannot be used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dschat.data.rows import Row, RowError
from dschat.data.schemas import DATA_SCHEMAS, Schema, detect_schema, has_columns, schemas
from dschat.data.schemas.gsm8k import SYSTEM_PROMPT
from dschat.errors import UserError
from dschat.rewards.code.problems import read_problem
from hypothesis import given, settings
from hypothesis import strategies as st

BY_NAME = {name: DATA_SCHEMAS[name].load() for name in DATA_SCHEMAS}


def rows(name: str, raw: dict[str, Any], phase: Any) -> list[Row]:
    return BY_NAME[name].rows(raw, phase)


@pytest.mark.parametrize("name", BY_NAME)
def test_schema_is_found_from_the_columns(name: str, makers: Any) -> None:
    assert detect_schema([makers[name](i) for i in range(3)], "here").name == name


def test_unknown_columns_are_listed_with_the_known_schemas() -> None:
    with pytest.raises(UserError) as caught:
        detect_schema([{"text": "a"}, {"label": 1}], "some.jsonl")
    message = str(caught.value)
    assert "some.jsonl" in message
    assert "label, text" in message
    for name, schema in BY_NAME.items():
        assert schema.name == name  # of the registry
        assert name in message


def test_a_schema_of_ones_own_goes_before_the_built_in_ones(monkeypatch: Any) -> None:
    monkeypatch.setattr(DATA_SCHEMAS, "_parts", dict(DATA_SCHEMAS._parts))
    own = Schema("hints", "prompt, hint", has_columns("prompt", "hint"), lambda raw, phase: [])
    DATA_SCHEMAS.add("hints", own)
    assert detect_schema([{"prompt": "a", "hint": "b"}], "here") is own
    assert detect_schema([{"prompt": "a"}], "here").name == "preferences"
    assert len(schemas()) == len(BY_NAME) + 1


def test_question_and_answer_without_a_final_answer_is_not_gsm8k() -> None:
    with pytest.raises(UserError, match="answer, question"):
        detect_schema([{"question": "a", "answer": "b"}], "here")


def test_preferences_pass_as_they_are(makers: Any) -> None:
    raw = {**makers["preferences"](3), "tests": [1]}
    prompt, chosen, rejected = raw["prompt"], raw["chosen"], raw["rejected"]
    assert rows("preferences", raw, "sft") == [Row(prompt, chosen)]
    assert rows("preferences", raw, "reward") == [Row(prompt, chosen, rejected)]
    assert rows("preferences", raw, "rl") == [Row(prompt, example={"tests": [1]})]
    assert rows("preferences", {"prompt": prompt}, "rl") == [Row(prompt)]
    assert rows("preferences", {"prompt": prompt, "chosen": chosen}, "sft")[0].chosen == chosen


def test_summaries_of_posts_and_articles(makers: Any) -> None:
    (post,) = rows("summaries", makers["summaries"](1), "reward")
    assert post.prompt == "POST\nSubreddit: r/tea\nMy kettle number 1 broke.\nTL;DR: "
    assert (post.chosen, post.rejected) == (" Second of 1", " First of 1")
    (article,) = rows("summaries", makers["summaries"](4), "reward")
    assert article.prompt == "ARTICLE\n(CNN) -- Kettle 4 recalled.\nTL;DR: "
    assert (article.chosen, article.rejected) == (" First of 4", " Second of 4")
    raw = makers["summaries"](0)
    raw["info"]["subreddit"] = None
    assert rows("summaries", raw, "rl")[0].prompt == "POST\nMy kettle number 0 broke.\nTL;DR: "


def test_webgpt_prefers_the_higher_score_and_loses_its_citations(makers: Any) -> None:
    (row,) = rows("webgpt", makers["webgpt"](0), "reward")
    assert row.prompt == " Human: Why 0? Assistant:"
    assert row.chosen == " It is 0."
    assert row.rejected == " Because of 0 (really)."
    tie = makers["webgpt"](3)
    with pytest.raises(RowError, match="no answer was preferred"):
        rows("webgpt", tie, "reward")
    assert rows("webgpt", tie, "sft")[0].chosen == " Because of 3 (really)."


def test_apps_gives_each_solution_in_sft_and_each_problem_in_rl(makers: Any) -> None:
    raw = makers["apps"](7)
    prompt = "### Problem:\nPrint 7.\n\n### Response:\n"
    assert rows("apps", raw, "sft") == [Row(prompt, "print(7)"), Row(prompt, "print(7 + 0)")]
    (row,) = rows("apps", raw, "rl")
    assert (row.prompt, row.chosen) == (prompt, None)
    assert row.example["input_output"] == raw["input_output"]
    assert row.example["difficulty"] == "introductory"
    assert "starter_code" in row.example
    with pytest.raises(RowError, match="no solution"):
        rows("apps", {**raw, "solutions": ""}, "sft")
    for tests in ("", "{}", json.dumps({"inputs": [], "outputs": []})):
        with pytest.raises(RowError, match="no unit tests"):
            rows("apps", {**raw, "input_output": tests}, "rl")


def test_apps_tests_may_hold_integers_of_many_digits(makers: Any) -> None:
    tests = '{"inputs": [[' + "9" * 5000 + ']], "outputs": [[1]]}'
    assert len(rows("apps", {**makers["apps"](0), "input_output": tests}, "rl")) == 1


def test_gsm8k_asks_for_and_shows_the_format(makers: Any) -> None:
    raw = makers["gsm8k"](71)
    (row,) = rows("gsm8k", raw, "sft")
    assert row.prompt == [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "What is 71 + 1?"},
    ]
    assert row.chosen == ("<reasoning>\nIt is 71+1 = 72.\n</reasoning>\n<answer>\n72\n</answer>")
    assert rows("gsm8k", raw, "rl")[0].example == raw
    with pytest.raises(RowError, match="no final answer"):
        rows("gsm8k", {**raw, "answer": "72"}, "rl")


def test_conversations_with_and_without_a_prompt_of_their_own(makers: Any) -> None:
    raw = makers["chat preferences"](2)
    prompt = [{"role": "user", "content": "Tell me of 2."}]
    expected = Row(prompt, "Much of 2.", "Nothing of 2.")
    assert rows("chat preferences", raw, "reward") == [expected]
    assert rows("chat preferences", raw, "sft") == [Row(prompt, "Much of 2.")]
    scores = {"score_chosen": 8.0, "score_rejected": 3.0}
    assert rows("chat preferences", raw, "rl") == [Row(prompt, example=scores)]
    # A prompt that is a text repeats the question.
    assert rows("chat preferences", {**raw, "prompt": "Tell me"}, "reward") == [expected]
    explicit = {"prompt": prompt, "chosen": raw["chosen"][1:], "rejected": "Nothing of 2."}
    assert detect_schema([explicit], "here").name == "chat preferences"
    assert rows("chat preferences", explicit, "reward") == [expected]
    assert rows("chat preferences", {**raw, "prompt": prompt}, "reward") == [expected]
    assert rows("chat preferences", {"prompt": prompt}, "rl") == [Row(prompt)]


def message(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"chosen": None}, "missing field 'chosen'"),
        ({"chosen": []}, "empty 'chosen'"),
        ({"chosen": 5}, "not a list of messages"),
        ({"chosen": ["text"]}, "not a list of messages"),
        ({"chosen": [message("user"), message("user")]}, "is not the assistant's"),
        ({"chosen": [message("assistant")]}, "no prompt before"),
        ({"chosen": [message("user"), message("assistant", 3)]}, "is not a string"),
        ({"chosen": [message("user"), message("assistant", " ")]}, "empty"),
        ({"chosen": [message("user"), message("assistant")]}, "the same prompt"),
        ({"prompt": [message("user")]}, "do not follow the prompt"),
    ],
)
def test_unusable_conversations(makers: Any, change: dict, problem: str) -> None:
    with pytest.raises(RowError, match=problem):
        rows("chat preferences", {**makers["chat preferences"](1), **change}, "reward")


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("value", [None, "", "  ", 5, 0.5, True, [], [None], {}, {"text": 1}])
def test_no_value_of_any_field_is_an_error_of_the_program(
    name: str, value: Any, makers: Any
) -> None:
    """Either the row can be used or it is a `RowError`; nothing else is raised."""
    for phase in BY_NAME[name].phases:
        for field in makers[name](1):
            try:
                made = rows(name, {**makers[name](1), field: value}, phase)
            except RowError:
                continue
            for row in made:
                assert isinstance(row.prompt, str | list)
                for response in (row.chosen, row.rejected):
                    assert response is None or (isinstance(response, str) and response.strip())


def test_equal_responses_teach_no_preference(makers: Any) -> None:
    raw = {**makers["preferences"](0), "rejected": " Good answer 0."}
    with pytest.raises(RowError, match="the same"):
        rows("preferences", raw, "reward")
    assert len(rows("preferences", raw, "sft")) == 1


def test_half_a_character_is_a_problem(makers: Any) -> None:
    raw = {**makers["preferences"](0), "chosen": json.loads('"broken \\ud83d"')}
    with pytest.raises(RowError, match="Unicode"):
        rows("preferences", raw, "sft")


def test_a_conversation_teaches_each_turn_of_the_assistant(makers: Any) -> None:
    raw = makers["conversations"](7)
    turns = raw["messages"]
    both = [Row(turns[:2], "It is 7."), Row(turns[:4], "Again 7.")]
    assert rows("conversations", raw, "sft") == both
    assert rows("conversations", raw, "rl") == [Row(turns[:4], example={"source": "web"})]
    waiting = {"messages": turns[:4]}
    assert rows("conversations", waiting, "sft") == both[:1]
    assert rows("conversations", waiting, "rl") == [Row(turns[:4])]
    for phase in ("sft", "rl"):
        with pytest.raises(RowError, match="assistant"):
            rows("conversations", {"messages": [message("assistant")]}, phase)
    # ShareGPT's names of the same.
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    shared = {
        "conversations": [{"from": names[t["role"]], "value": t["content"]} for t in turns],
    }
    assert detect_schema([shared], "here").name == "conversations"
    assert rows("conversations", shared, "sft") == both
    # Preference pairs that repeat their conversation are pairs.
    pair = {**makers["chat preferences"](1), "messages": turns}
    assert detect_schema([pair], "here").name == "chat preferences"


def test_prompts_and_completions(makers: Any) -> None:
    raw = makers["completions"](7)
    reference = {"completion": " It is 7.", "source": "web"}
    assert rows("completions", raw, "sft") == [Row("Say 7.", " It is 7.")]
    assert rows("completions", raw, "rl") == [Row("Say 7.", example=reference)]
    assert rows("completions", {**raw, "label": True}, "sft") == [Row("Say 7.", " It is 7.")]
    with pytest.raises(RowError, match="labelled as a bad one"):
        rows("completions", {**raw, "label": False}, "sft")
    chat = makers["chat completions"](7)
    expected = [Row([message("user", "Say 7.")], "It is 7.")]
    assert rows("chat completions", chat, "sft") == expected
    assert rows("chat completions", {**chat, "prompt": "Say 7."}, "sft") == expected
    assert rows("chat completions", {**chat, "completion": "It is 7."}, "sft") == expected
    with pytest.raises(RowError, match="the last message of 'completion'"):
        rows("chat completions", {**chat, "completion": [message("user")]}, "sft")
    with pytest.raises(RowError, match="bad one"):
        rows("chat completions", {**chat, "label": 0}, "sft")


def test_whole_dialogues_are_cut_where_dahoas_cut_them(makers: Any) -> None:
    raw, cut = makers["dialogues"](3), makers["preferences"](3)
    for phase in ("sft", "reward", "rl"):
        assert rows("dialogues", raw, phase) == rows("preferences", cut, phase)
    longer = {**raw, "rejected": raw["rejected"] + "\n\nHuman: No.\n\nAssistant: Yes."}
    with pytest.raises(RowError, match="the same prompt"):
        rows("dialogues", longer, "reward")
    with pytest.raises(RowError, match="no column 'prompt'"):
        rows("dialogues", {**raw, "chosen": "A text."}, "sft")


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("tests", "kind"),
    [
        ('{"inputs": ["1", "2"], "outputs": ["1"]}', "unequal numbers"),
        ('{"inputs": "12", "outputs": "12"}', "not a list"),
        ('{"inputs": {"a": 1}, "outputs": ["1"]}', "not a list"),
        ('{"inputs": [[1]], "outputs": [1], "fn_name": "a b"}', "not a function's name"),
        ('{"inputs": [[1]], "outputs": [1], "fn_name": ""}', "not a function's name"),
        ('{"inputs": [[1]], "outputs": [1], "fn_name": "lambda"}', "not a function's name"),
        ('{"inputs": [[1]], "outputs": [1], "fn_name": ["f"]}', "not a function's name"),
        ('{"inputs": [[1], {"a": 1}], "outputs": [1, 2], "fn_name": "f"}', "not a list"),
        ('{"inputs": [[1], "[1]"], "outputs": [1, 2], "fn_name": "f"}', "not a list"),
        *[
            (f'{{"inputs": [{nested(depth)}], "outputs": [1]}}', "nested too deeply")
            for depth in (63, 400, 990, 5000, 200_000)
        ],
    ],
)
def test_apps_rows_with_unusable_tests_are_dropped_by_kind(
    makers: Any, tests: str, kind: str
) -> None:
    with pytest.raises(RowError, match=kind):
        rows("apps", {**makers["apps"](0), "input_output": tests}, "rl")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_apps_row_that_is_kept_can_be_run(data: st.DataObject) -> None:
    scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "f", "1"])
    values = st.recursive(
        scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("ab"), v)
    )
    pairs = st.lists(values | st.lists(values, max_size=2), max_size=3)
    tests = {
        "inputs": data.draw(pairs | values),
        "outputs": data.draw(pairs | values),
        "fn_name": data.draw(st.sampled_from(["f", None, "", "a.b", "if", 3, ["f"]])),
    }
    raw = {"question": "q", "solutions": "", "starter_code": "", "problem_id": 1}
    try:
        (row,) = rows("apps", {**raw, "input_output": json.dumps(tests)}, "rl")
    except RowError:
        return
    assert read_problem(row.example).tests
