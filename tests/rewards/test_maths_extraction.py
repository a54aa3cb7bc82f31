"""Where responses say their answers: hand-written responses, and GSM8K's own solutions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.rewards.math_answers import MathAnswerReward, answered_correctly, gold_answer
from dschat.rewards.math_numbers import same_answer
from dschat.rewards.maths.extraction import find_answer
from dschat.settings.rewards import FORMS, check_forms

GSM8K = Path(__file__).parents[3] / "shared/data/gsm8k"

# response, right answer (None: nothing that is right), form that finds it
RESPONSES: list[tuple[str, str | None, str | None]] = [
    ("<answer>12</answer> and 13", "12", "tags"),
    ("<answer>twelve</answer>", "12", "tags"),
    ("<answer>I am not sure</answer> 12", None, "tags"),
    ("so 3*60=180\n#### 180\n", "180", "hashes"),
    ("#### $1,234.50", "1234.5", "hashes"),
    ("#### 180 meters", "180", "hashes"),
    ("#### Answer: 180", "180", "hashes"),
    ("#### Step 1: add 3\nSo we get 7.", "7", "last_number"),
    (r"The final answer is \boxed{12}.", "12", "boxed"),
    (r"so $\boxed{\text{12}}$", "12", "boxed"),
    (r"\boxed{\frac{1}{2}}", "0.5", "boxed"),
    (r"\boxed{5}? No: \boxed{6}", "6", "boxed"),
    (r"\boxed{\$5}", "5", "boxed"),
    (r"\boxed{5", "5", "last_number"),
    (r"\boxed{a $5}$ b}", None, "last_number"),
    ("The answer is 180.", "180", "phrase"),
    ("The answer is $18.50.", "18.5", "phrase"),
    ("the answer is: **180**.", "180", "phrase"),
    ("**Answer:** 12", "12", "phrase"),
    ("**Final Answer**\n\n12 apples", "12", "phrase"),
    ("The answer is\n\n180", "180", "phrase"),
    ("So the answer to the question is 12.", "12", "phrase"),
    ("The answer is 12 because 3*5=15", "12", "phrase"),
    ("The answer is 12, since 3 times 4 is 12.", "12", "phrase"),
    ("First the answer is 3. No, the answer is 4.", "4", "phrase"),
    ("The answer is not 12.", None, "phrase"),
    ("The answer is 12 or 13.", None, "phrase"),
    ("The answer is as follows. She sold 12 cups.", "12", "last_number"),
    ("She has 3 apples and 12 pears.", "12", "last_number"),
    ("Therefore, Janet makes 9 * $2 = $18 every day.", "18", "last_number"),
    ("She makes 9 * 2 = $<<9*2=18>>18 every day.", "18", "last_number"),
    ("1. First add 3.\n2. The total is 12.", "12", "last_number"),
    ("He drives 10 meters after the 3rd turn.", "10", "last_number"),
    ("He listened to 23 songs in two days.", "23", "last_number"),
    ("There are 110 balls that Ralph didn't hit.", "110", "last_number"),
    ("5 is not the answer", None, "last_number"),
    ("It is 5-3", None, "last_number"),
    ("It takes 3 fifths", "0.6", "last_number"),
    ("Her mp3 player holds 12 songs", "12", "last_number"),
    ("twelve", "12", "last_number"),
    ("I don't know", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("response", "right", "form"), RESPONSES)
def test_answers_in_responses(response: str, right: str | None, form: str | None) -> None:
    answer, found = find_answer(response)
    assert found == form
    if right is not None:
        assert same_answer(answer or "", right)
        assert answered_correctly(response, {"answer": f"#### {right}"})
    for wrong in ("12", "5", "13", "2"):
        if right is None or not same_answer(right, wrong):
            assert not answered_correctly(response, {"answer": f"#### {wrong}"}), answer


def test_the_forms_are_tried_in_the_given_order() -> None:
    response = r"<answer>1</answer> \boxed{2} the answer is 3." + "\n#### 4\nand 5"
    found = {form: find_answer(response, [form])[0] for form in FORMS}
    assert found == dict(tags="1", hashes="4", boxed="2", phrase="3", last_number="and 5")
    assert find_answer(response, ["boxed", "tags"]) == ("2", "boxed")
    assert find_answer("\n#### 4", ["boxed", "tags"]) == (None, None)


@pytest.mark.parametrize("forms", [[], ["tag"], ["tags", "tags"], ["tags", ""]])
def test_unknown_forms_are_refused(forms: list[str]) -> None:
    with pytest.raises(UserError, match=r"--answer_extraction .*tags, hashes, boxed"):
        check_forms(forms)


def test_the_reward_says_which_form_found_the_answer() -> None:
    rows = [{"answer": "#### 180"}] * 4
    responses = ["#### 180", "The answer is 180.", "<answer>180</answer>", "no idea"]
    published, parts = MathAnswerReward().explained([""] * 4, responses, rows)
    assert published == [0, 0, 2.0 + 0.5 + 0.25, 0]
    assert parts["found_by_none"] == [1, 1, 0, 1]
    rewards, parts = MathAnswerReward(forms=FORMS).explained([""] * 4, responses, rows)
    # The answer counts wherever it stands; the format's parts are those of the published reward.
    assert rewards == [2.0, 2.0, 2.0 + 0.5 + 0.25, 0]
    assert parts["found_by_hashes"] == [1, 0, 0, 0]
    assert parts["found_by_phrase"] == [0, 1, 0, 0]
    assert parts["found_by_tags"] == [0, 0, 1, 0]
    assert parts["found_by_none"] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "answer is " * 100_000,
        "answer to " * 100_000,
        "answer:\n" * 100_000,
        "#### x\n" * 100_000,
        "1 " * 400_000,
        "1+" * 400_000,
        "{" * 800_000,
        "answer" + " " * 800_000,
    ],
    ids=range(9),
)
def test_hostile_responses_are_answered_at_once(text: str) -> None:
    begin = time.process_time()
    find_answer(text)
    assert time.process_time() - begin < 1.0


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K data are not here")
def test_the_written_solutions_of_gsm8k() -> None:
    """With their mark all are found; without it the last number is right in more than 9 of 10."""
    right = rows = 0
    for line in (GSM8K / "test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        solution = row["answer"].rpartition("####")[0].strip()
        assert answered_correctly(row["answer"], row)
        assert answered_correctly(f"{solution}\nThe answer is {gold_answer(row)}.", row)
        assert answered_correctly(rf"{solution} \boxed{{{gold_answer(row)}}}", row)
        right += answered_correctly(solution, row)
        rows += 1
    assert right / rows > 0.9, right / rows
