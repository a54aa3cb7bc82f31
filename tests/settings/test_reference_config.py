"""The flags that name several references and their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dschat.errors import UserError
from dschat.settings.command_line import CommandLine
from dschat.settings.references import ReferenceFlags, reference_weights


def parse(*arguments: str) -> ReferenceFlags:
    return CommandLine(ReferenceFlags).parse(list(arguments))


PAIR = ("--ref_a", "a", "--ref_b", "b")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (PAIR, [("a", 0.5), ("b", 0.5)]),
        ((*PAIR, "--alpha", "0.25", "--beta", "0.75"), [("a", 0.25), ("b", 0.75)]),
        ((*PAIR, "--alpha", "1"), [("a", 1.0), ("b", 0.0)]),
        (("--refs", "a"), [("a", 1.0)]),
        (("--refs", "a", "b", "c", "d"), [("a", 0.25), ("b", 0.25), ("c", 0.25), ("d", 0.25)]),
        (
            ("--refs", "a", "b", "c", "--ref_weights", "0.5", "0.25", "0.25"),
            [("a", 0.5), ("b", 0.25), ("c", 0.25)],
        ),
    ],
)
def test_weights(arguments: tuple[str, ...], expected: list[tuple[str, float]]) -> None:
    assert reference_weights(parse(*arguments), "rkl") == expected


def test_the_forward_kl_has_a_weight_of_its_own() -> None:
    both = parse(*PAIR, "--alpha", "0.25", "--beta", "0.75")
    assert reference_weights(both, "fkl") == [("a", 0.75), ("b", 0.25)]


def test_rounded_weights_are_normalised() -> None:
    third = "0.3333333"
    weights = reference_weights(
        parse("--refs", "a", "b", "c", "--ref_weights", third, third, third), "rkl"
    )
    assert [w for _, w in weights] == pytest.approx([1 / 3] * 3, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--refs FOLDER FOLDER"),
        (("--ref_a", "a"), "without --ref_b"),
        (("--ref_b", "b"), "without --ref_a"),
        ((*PAIR, "--refs", "a", "b"), "one of the two"),
        (("--ref_a", "a", "--refs", "b"), "one of the two"),
        ((*PAIR, "--ref_weights", "0.5", "0.5"), "--alpha"),
        ((*PAIR, "--alpha", "1.5"), "--alpha 1.5"),
        ((*PAIR, "--alpha", "nan"), "--alpha nan"),
        # The unused one of the two is checked as well.
        ((*PAIR, "--beta", "-0.1"), "--beta -0.1"),
        (("--refs", "a", "b", "--alpha", "0.7"), "--ref_weights"),
        (("--refs", "a", "b", "--ref_weights", "1"), "1 numbers for 2"),
        (("--refs", "a", "b", "--ref_weights", "-0.5", "1.5"), "from 0 to 1"),
        (("--refs", "a", "b", "--ref_weights", "0", "0"), "all weights are 0"),
        (("--refs", "a", "b", "--ref_weights", "inf", "0"), "finite number"),
        (("--refs", "a", "b", "--ref_weights", "3", "1"), "add up to 4.*--ref_weights 0.75 0.25"),
        (("--refs", "a", "b", "--ref_weights", "0.5", "0.50001"), "add up to 1.00001"),
    ],
)
def test_invalid_values_are_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        reference_weights(parse(*arguments), "rkl")


def test_a_file_of_settings_can_be_given_back(tmp_path: Path) -> None:
    config = parse("--refs", "a", "b", "--ref_weights", "0.125", "0.875")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config.as_flags(), "run": {"given": config.given_flags()}}))
    assert parse(str(path)) == config
    path.write_text("refs: [a, b]\nref_weights: [1, 0]\n")
    assert parse(str(path), "--ref_weights", "0.5", "0.5").ref_weights == [0.5, 0.5]
    path.write_text("refs: [a, b]\nref_weights: [much, little]\n")
    with pytest.raises(UserError, match="ref_weights"):
        parse(str(path))
