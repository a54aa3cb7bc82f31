"""From dataclasses of flags to a command line: tables, parts, plugins, files, what was given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from dschat.errors import UserError
from dschat.settings.command_line import CommandLine, Renamed
from dschat.settings.flags import RARELY_NEEDED, Settings, flag, require, with_parts
from dschat.settings.registry import Registry

PENALTIES = Registry("penalty")


@dataclass
class Transport(Settings):
    """A part with a check."""

    epsilon: float | None = flag(None, "Entropic regularisation.")
    top_k: int = flag(128, "Tokens in the support.")

    def validate(self) -> None:
        require(self.top_k >= 1, f"{self.flag('top_k')} {self.top_k}: expected 1 or more.")


@dataclass
class Divergence:
    """A part as a user may write it."""

    f_div: str = flag("rkl", "Which divergence.", choices=["rkl", "fkl"])
    epsilon: float = flag(0.5, "Another flag of that name.")


PENALTIES.add("transport", "m:Transport", Transport, "moves mass")
PENALTIES.add("divergence", "m:Divergence", Divergence)
PENALTIES.add("none", "m:Nothing")


@dataclass
class Run(Settings):
    """What a trainer knows."""

    penalty: str = flag("divergence", "The penalty.", registry=PENALTIES, group="Penalty")
    coefficient: float = flag(0.05, "Its coefficient, 100 % of it.")
    learning_rate: float = flag(1e-5, "Peak learning rate.", group="Training")
    clip_high: float | None = flag(None, "Upper clip.", aliases=["epsilon_high"])
    steps: list[int] = flag([1, 2], "Steps.")
    mode: Literal["fast", "slow"] | None = flag(None, "A mode.")
    shuffle: bool = flag(True, "Shuffle.")
    test: bool = flag(False, "Test.")
    seed: int = flag(1, "Seed.")
    gamma: float = flag(1.0, "Discount.")
    plugin: list[str] | None = flag(None, "Python files to import.", repeatable=True)
    ignored: int = flag(0, "Does nothing.", group=RARELY_NEEDED)

    def validate(self) -> None:
        self.validate_parts()
        require(
            self.coefficient >= 0,
            f"{self.flag('coefficient')} {self.coefficient}: expected 0 or more.",
        )


@dataclass
class Own(Settings):
    """Flags of one script only."""

    bf16: bool = flag(False, "Half precision.", group="Precision")

    def apply(self, run: Run) -> None:
        if self.bf16:
            run.seed = 16


PLAIN: CommandLine[Any] = CommandLine(Run)
PRESET: CommandLine[Any] = CommandLine(
    Run,
    table={
        "gamma": Renamed("coefficient", default=0.1, help="Strength."),
        "transport": Renamed(
            "penalty",
            default="published",
            values={"published": "transport", "none": "none"},
        ),
        "lr": Renamed("learning_rate", default=1e-6, aliases=["rate"]),
        "top_k": Renamed("top_k", default=64),
    },
    absent=["gamma"],
    preset={"seed": 7},
    own=Own,
)


def test_values_of_every_kind() -> None:
    run = PLAIN.parse(
        [
            "--steps",
            "3",
            "4",
            "--mode",
            "slow",
            "--no_shuffle",
            "--test",
            "--clip-high=0.3",
            "--learning-rate",
            "2",
        ]
    )
    assert (run.steps, run.mode, run.shuffle, run.test) == ([3, 4], "slow", False, True)
    assert (run.clip_high, run.learning_rate, run.seed) == (0.3, 2.0, 1)
    assert PLAIN.parse(["--test", "no", "--shuffle", "false"]).shuffle is False
    assert PLAIN.parse([]).steps == [1, 2]


def test_what_was_given_is_known(tmp_path: Path) -> None:
    assert PLAIN.parse(["--seed", "1", "--no_shuffle"]).given == {"seed", "shuffle"}
    path = tmp_path / "config.yaml"
    path.write_text("gamma: 1.0\nclip_high: null\nepsilon_high: 0.4\n")
    run = PLAIN.parse([str(path), "--seed=1"])
    assert run.given == {"gamma", "clip_high", "seed"}
    assert run.clip_high == 0.4
    assert run.replace(seed=3).given == run.given
    assert Run(seed=3).given == {"seed"}
    # What a run writes can be given back, and tells what was given to the run.
    path.write_text(yaml.safe_dump({**run.as_flags(), "run": {"given": run.given_flags()}}))
    again = PLAIN.parse([str(path)])
    assert again == run
    assert again.given == run.given


def test_a_table_has_its_own_names_defaults_and_values() -> None:
    run = PRESET.parse([])
    assert (run.coefficient, run.learning_rate, run.seed) == (0.1, 1e-6, 7)
    assert (run.penalty, run.top_k, run.gamma) == ("transport", 64, 1.0)
    run = PRESET.parse(["--lr", "3", "--gamma", "2", "--bf16", "--top_k", "5"])
    assert (run.coefficient, run.learning_rate, run.top_k, run.seed) == (2.0, 3.0, 5, 16)
    assert run.given == {"learning_rate", "coefficient", "top_k"}
    assert run.own_flags.given == {"bf16"}
    assert run.flag("learning_rate") == "--lr"
    assert run.as_flags()["transport"] == "published"
    assert "seed" not in run.as_flags()
    assert PRESET.parse(["--transport", "none"]).penalty == "none"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--gamma -1", "--gamma -1.0: expected 0 or more"),
        ("--top_k 0", "--top_k 0: expected 1 or more"),
        ("--seed 3", "Unknown flag '--seed'"),
        ("--coefficient 3", "Unknown flag '--coefficient'"),
        ("--transport none --top_k 3", "--top_k belongs to --transport published. Remove"),
        ("--lr 1 --rate 2", "--lr and --rate are one setting"),
        ("--rate inf", "inf: expected a finite number"),
    ],
)
def test_errors_name_the_flag_of_the_script(typed: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        PRESET.parse(typed.split())


def test_flags_of_the_chosen_part_only() -> None:
    run = PLAIN.parse(["--penalty", "transport", "--epsilon", "0.2"])
    assert (run.epsilon, run.top_k) == (0.2, 128)
    assert run.part("penalty") == Transport(0.2, 128)
    assert run.part("penalty").given == {"epsilon"}
    assert PLAIN.parse([]).part("penalty") == Divergence()
    assert run == with_parts(Run, penalty="transport")(penalty="transport", epsilon=0.2)
    for typed, says in (
        ("--top_k 3", "--top_k belongs to --penalty transport. Remove it, or choose"),
        ("--penalty none --f_div fkl", "belongs to --penalty divergence"),
        ("--penalty transprot", "no penalty named 'transprot'. Did you mean 'transport'"),
        ("--penalty transport --top_k 0", "--top_k 0: expected 1 or more"),
    ):
        with pytest.raises(UserError, match=says):
            PLAIN.parse(typed.split())
    with pytest.raises(SystemExit):
        PLAIN.parse(["--f_div", "js"])


def test_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"penalty": "transport", "top_k": 3}')
    assert PLAIN.parse([str(path)]).top_k == 3
    with pytest.raises(UserError, match="config.json: top_k belongs to --penalty transport"):
        PLAIN.parse([str(path), "--penalty", "none"])


def test_null_in_a_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("coefficient: null\nsteps:\n")
    run = PLAIN.parse([str(path)])
    assert (run.coefficient, run.steps, run.given) == (0.05, [1, 2], frozenset())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: [1, 2]", "expected one value, not a list"),
        ("seed: []", "expected one value, not a list"),
        ("seed: true", "seed = True in the config file: invalid literal"),
        ("clip_high: 1\nepsilon_high: 2", "clip_high and epsilon_high are one setting"),
    ],
)
def test_what_a_file_cannot_say(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        PLAIN.parse([str(path)])


def test_flags_beside_a_runs_own_settings(tmp_path: Path) -> None:
    def again(typed: str, beside: str) -> Any:
        run = PLAIN.parse(typed.split())
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**run.as_flags(), "run": {"given": run.given_flags()}}))
        return PLAIN.parse([str(path), *beside.split()])

    # Another part has its own defaults, also for the flags that both have.
    assert again("", "--penalty transport").epsilon is None
    assert again("--epsilon 0.7", "--penalty transport").epsilon == 0.7
    assert again("--penalty transport", "--penalty none").penalty == "none"
    with pytest.raises(UserError, match="top_k belongs to --penalty transport"):
        again("--penalty transport --top_k 3", "--penalty none")


def test_settings_of_before_a_run_said_what_was_given(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\ngamma: 0.5\nrun: {world_size: 1}\n")
    assert PLAIN.parse([str(path)]).given == {"gamma"}


def test_a_plugin_is_imported_before_flags_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PENALTIES, "_parts", dict(PENALTIES._parts))
    registry = f"import sys; PENALTIES = sys.modules[{__name__!r}].PENALTIES\n"
    part = (
        "from dataclasses import dataclass\n"
        "from dschat.settings.flags import flag\n"
        "@dataclass\nclass Mine:\n    {0}: float = flag(2.0, 'Mine.')\n"
        "PENALTIES.add('{1}', object, Mine)\n"
    )
    first, second = tmp_path / "one.py", tmp_path / "two.py"
    first.write_text(registry + part.format("strength", "mine"))
    second.write_text(registry + part.format("seed", "clashing"))
    plugins = ["--plugin", str(first), "--plugin", str(second)]
    run = PLAIN.parse([*plugins, "--penalty", "mine", "--strength", "3"])
    assert run.strength == 3.0
    assert run.plugin == [str(first), str(second)]
    third = tmp_path / "three.py"
    third.write_text(registry + part.format("validate_parts", "of_the_class"))
    for name, others in (("clashing", "seed"), ("of_the_class", "validate_parts")):
        with pytest.raises(UserError, match=f"with the names of others: {others}. Rename them"):
            PLAIN.parse([*plugins, "--plugin", str(third), "--penalty", name])
    with pytest.raises(UserError, match="--plugin none.py: expected a Python file"):
        PLAIN.parse(["--plugin", "none.py"])


def test_help_shows_the_description_as_it_stands_and_flags_in_groups(
    capsys: pytest.CaptureFixture[str],
) -> None:
    description = "Train.\n\n    python main.py --seed 3 \\\n        --penalty none\n"
    line = dataclasses.replace(PLAIN, description=description)
    with pytest.raises(SystemExit) as left:
        line.parse(["--penalty", "transport", "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert description in told
    titles = ["Penalty:", "Training:", "--penalty transport:", "Rarely needed:"]
    assert [t for t in told.splitlines() if t in titles] == titles
    assert "Its coefficient, 100 % of it. (default: 0.05)" in told
    assert "--clip-high" not in told


def test_arguments_without_a_flag() -> None:
    @dataclass
    class Files(Settings):
        files: list[str] = flag([], "Files.")
        test: bool = flag(False, "Test.")
        seed: int = flag(1, "Seed.")

    line: CommandLine[Any] = CommandLine(Files, positional="files")
    for typed in (
        "a --test b --seed 2 c",
        "--test --seed=2 a b c",
        "--files a b c --test --seed 2",
    ):
        assert line.parse(typed.split()) == Files(["a", "b", "c"], True, 2)
    assert line.parse(["--test", "false", "a"]) == Files(["a"])
