"""From a dataclass of flags to a command line, a YAML/JSON file, or both.

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, cast

from dschat.errors import MAX_DEPTH, UserError, one_line, too_deep
from dschat.settings.flags import (
    LAST_GROUPS,
    Flag,
    Settings,
    chosen_parts,
    flag,
    flags_of,
    require,
    with_parts,
)
from dschat.settings.registry import NoSettings, import_file

__all__ = [
    "REPLACED_FLAGS",
    "CommandLine",
    "Renamed",
    "Settings",
    "flag",
    "require",
]

ConfigT = TypeVar("ConfigT")
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
TRUTHS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}

# Flags that DeepSpeed-Chat users know and this project does not honour -> what to use instead.
HYBRID_ENGINE = (
    "the hybrid engine is not used here: generation runs on the trained weights themselves. "
    "Remove the flag; under ZeRO 3 add --enable_zero3_generation_gather for fast generation"
)
REPLACED_FLAGS: dict[str, str] = {
    "enable_hybrid_engine": HYBRID_ENGINE,
    "unpin_actor_parameters": HYBRID_ENGINE,
    "release_inference_cache": HYBRID_ENGINE,
    "inference_tp_size": HYBRID_ENGINE,
    "tp_gather_partition_size": HYBRID_ENGINE,
    "preprocessing_num_workers": "texts are tokenised by the tokenizer's own threads, and only as "
    "many as a run needs. Remove the flag",
    "entropy_loss_coef": "online training calls it --entropy_coef",
    "enable_mixed_precision_lora": "mixed-precision ZeRO++ is not supported. Remove the flag and "
    "use --actor_lora_dim with --actor_zero_stage 2 or 3",
}


class _Keep:
    """The setting's own."""


KEEP: Any = _Keep()


@dataclass(frozen=True)
class Renamed:
    """How a script publishes a setting: what differs from the setting's own flag.

    Attributes:
        setting: the setting, of the dataclass or of a part.
        values: what is typed -> the setting's value, where they differ; its keys are the choices,
            and `default` is one of them.
        kind: type of the value.
    """

    setting: str
    default: Any = KEEP
    help: str | None = None
    choices: Sequence[Any] | None = None
    aliases: Sequence[str] | None = None
    group: str | None = None
    values: Mapping[str, Any] | None = None
    kind: type | None = None

    def of(self, own: Flag, name: str) -> Flag:
        """The flag `own` as it is published under `name`."""
        choices = tuple(self.values) if self.values is not None else self.choices
        return dataclasses.replace(
            own,
            name=name,
            default=own.default if self.default is KEEP else self.default,
            help=self.help or own.help,
            choices=own.choices if choices is None else tuple(choices),
            aliases=own.aliases if self.aliases is None else tuple(self.aliases),
            group=self.group or own.group,
            values=self.values,
            kind=self.kind or (str if self.values is not None else own.kind),
        )


@dataclass(frozen=True)
class CommandLine(Generic[ConfigT]):
    """The command line of a script: `[config.yaml] [--flag value ...]`.

    Attributes:
        settings: a dataclass of `flag(...)` fields. Its `validate()`, if any, is called on the
            result. If it is a `Settings`, the result knows what was given, and flags' names.
        description: shown by `--help` without reflowing it.
        refused: known flags that are refused -> what to use instead.
        table: published flag -> the setting that it sets (of the dataclass or of a part), or a
            `Renamed`, if it differs in more than the name. Other settings keep their own names.
        absent: settings for which this script has no flag.
        preset: settings that this script decides -> their values; there is no flag for them.
        own: a `Settings` dataclass of flags that only this script has. Its
            `apply(settings)` sets the settings that follow from them, before they are checked.
        positional: the flag, a list of texts, that takes arguments without a flag.
    """

    settings: type[ConfigT]
    description: str | None = None
    refused: Mapping[str, str] = field(default_factory=lambda: REPLACED_FLAGS)
    table: Mapping[str, str | Renamed] = field(default_factory=dict)
    absent: Collection[str] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)
    own: type[Settings] | None = None
    positional: str | None = None

    def parse(self, argv: Sequence[str] | None = None, description: str | None = None) -> ConfigT:
        """The settings, checked; flags override the config file.

        Args:
            argv: the arguments without the program's name; None takes `sys.argv[1:]`.
            description: for `--help`, in the place of this command line's own.

        Raises:
            UserError: a refused flag, a file that cannot be read, an unknown name in it, or what
                `validate` refuses.
            SystemExit: argparse's own errors (exit code 2) and `--help`.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        self._refuse(map(_flag_name, arguments))
        path = _take_config_file(arguments)
        raw = {} if path is None else _read_config_file(path)
        run = raw.pop("run", None)  # what a run's own config.yaml says about the run
        self._import_plugins(arguments, raw)
        chosen = self._chosen(arguments, raw)
        run = run if isinstance(run, dict) else {}
        if "given" in run:
            raw = self._without_what_follows(raw, chosen, run["given"])
            if "--preset" in {a.split("=", 1)[0] for a in arguments}:
                anew = self._preset(arguments, raw).keys() | self._preset((), raw).keys()
                kept = {name for name in raw if self._setting(name) not in anew}
                raw = {n: v for n, v in raw.items() if n in kept or n in run["given"]}
        settings_class = with_parts(self.settings, **chosen)
        preset = self._preset(arguments, raw)
        flags = with_preset(self.flags(settings_class), preset, (*self.absent, *self.preset))

        typed = self._typed(arguments, flags, description)
        file = {} if path is None else self._from_file(path, raw, flags)
        given = set(file)
        if run:  # those of 0.1.0 do not say what was given
            given &= set(run.get("given", [f.name for f in flags if file.get(f.name) != f.default]))
        config = self._build(settings_class, flags, {**file, **typed}, given | typed.keys())
        if isinstance(config, Settings):
            config.spellings = _spellings(arguments, flags)
            if config.own_flags is not None:
                config.own_flags.spellings = config.spellings
                config.own_flags.apply(config)
        if hasattr(config, "validate"):
            try:
                config.validate()
            except UserError as error:
                raise UserError(f"{error}{_what_it_sets(preset, str(error), flags)}") from error
        return cast(ConfigT, config)

    def _typed(
        self, arguments: list[str], flags: Sequence[Flag], description: str | None
    ) -> dict[str, Any]:
        """Flag -> value, of the flags on the command line."""
        if self.positional is not None:
            _mark_switches(arguments, flags)
        namespace, unknown = _parser(self, flags, description).parse_known_args(arguments)
        typed = vars(namespace)
        if self.positional is not None:
            loose = [a for a in unknown if not a.startswith("-") or a == "-"]
            unknown = [a for a in unknown if a not in loose]
            if loose:
                typed[self.positional] = [*loose, *typed.get(self.positional, [])]
        if unknown:
            raise UserError(self._unknown(unknown, flags))
        return typed

    def _build(
        self,
        settings_class: type,
        flags: Sequence[Flag],
        set_flags: Mapping[str, Any],
        given: Collection[str],
    ) -> Any:
        """The settings object.

        Args:
            set_flags: flag -> value as typed, of the flags that are not at their defaults.
            given: the flags that count as given.
        """
        values: dict[bool, dict[str, Any]] = {False: {**self.preset}, True: {}}
        for f in flags:
            value = set_flags.get(f.name, f.default)
            _refuse_infinite(value, f"--{f.name}")
            if f.values is not None and value is not None:
                value = f.values[value]
            values[f.own][f.setting] = value
        config = settings_class(**values[False])
        if isinstance(config, Settings):
            config.published = tuple(flags)
            config.given = frozenset(f.setting for f in flags if f.name in given and not f.own)
            if self.own is not None:
                config.own_flags = self.own(**values[True])
                config.own_flags.given = frozenset(
                    f.setting for f in flags if f.name in given and f.own
                )
        return config

    def flags(self, settings_class: type | None = None) -> list[Flag]:
        """The flags, in the order of `--help`.

        Args:
            settings_class: with the settings of the chosen parts; None: those of the defaults.
        """
        if settings_class is None:
            settings_class = with_parts(self.settings, **self._chosen_by_default())
        published = [
            self._published(f)
            for f in [*flags_of(self.settings), *self._part_flags(settings_class)]
            if f.setting not in self.preset and f.setting not in self.absent
        ]
        if self.own is not None:
            published += [dataclasses.replace(f, own=True) for f in flags_of(self.own)]
        names = [name for f in published for name in (f.name, *f.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"Two settings have the flag --{', --'.join(twice)}. Rename one.")
        return published

    def _published(self, f: Flag) -> Flag:
        """A setting's flag as this script publishes it."""
        for name, to in self.table.items():
            rule = Renamed(to) if isinstance(to, str) else to
            if rule.setting == f.setting:
                return rule.of(f, name)
        return f

    def _part_flags(self, settings_class: type) -> list[Flag]:
        """The flags of the chosen parts, in groups of their own."""
        own = {f.setting for f in flags_of(self.settings)}
        found = []
        for f in flags_of(settings_class):
            if f.setting not in own:
                found.append(dataclasses.replace(f, group=_part_group(f, settings_class)))
        return found

    def _chosen_by_default(self) -> dict[str, Any]:
        chosen = {}
        for f in flags_of(self.settings):
            if f.registry is not None:
                shown = self._published(f)
                default = shown.default
                if shown.values:
                    default = shown.values.get(default, default)
                chosen[f.setting] = self.preset.get(f.setting, default)
        return chosen

    def _choosers(self) -> list[Flag]:
        """The flags that choose parts, as this script publishes them."""
        return [
            self._published(f)
            for f in flags_of(self.settings)
            if f.registry is not None
            and f.setting not in self.preset
            and f.setting not in self.absent
        ]

    def _import_plugins(self, arguments: Sequence[str], file: Mapping[str, Any]) -> None:
        """Run the files of `--plugin`: they register parts, whose flags are made afterwards."""
        plugin = next((f for f in flags_of(self.settings) if f.name == "plugin"), None)
        if plugin is None:
            return
        typed = _only([plugin]).parse_known_args(arguments)[0]
        named = vars(typed).get("plugin", file.get("plugin")) or []
        for path in [named] if isinstance(named, str) else named:
            import_file(str(path), "--plugin")

    def _preset(self, arguments: Sequence[str], file: Mapping[str, Any]) -> Mapping[str, Any]:
        """Setting -> value, of the preset that is named (`--preset`), if any."""
        for f in self._choosers():
            if f.setting == "preset" and f.registry is not None:
                typed = vars(_only([f]).parse_known_args(arguments)[0])
                name = typed.get("preset", file.get("preset"))
                return {} if name is None else dict(f.registry[name].load())
        return {}

    def _chosen(self, arguments: Sequence[str], file: Mapping[str, Any]) -> dict[str, Any]:
        """Setting -> value, of the settings that choose parts."""
        choosers = self._choosers()
        typed = vars(_only(choosers).parse_known_args(arguments)[0]) if choosers else {}
        chosen = self._chosen_by_default()
        preset = self._preset(arguments, file)
        chosen.update({f.setting: preset[f.setting] for f in choosers if f.setting in preset})
        for f in choosers:
            in_file = [file[name] for name in (f.name, *f.aliases) if file.get(name) is not None]
            value = typed.get(f.name, in_file[0] if in_file else None)
            if value is not None:
                value = _file_value(f, value)
                chosen[f.setting] = value if f.values is None else f.values[value]
        return chosen

    def _without_what_follows(
        self, file: Mapping[str, Any], chosen: Mapping[str, Any], given: Collection[str]
    ) -> dict[str, Any]:
        """A run's settings without what it was not given and other flags may change.

        Those are `Settings.derived`, and the defaults of parts that are chosen no longer.
        """
        gone = set(self.settings.derived if issubclass(self.settings, Settings) else ())
        before = self._chosen((), file)
        for f in flags_of(self.settings):
            if f.registry is not None:
                kept = list(chosen_parts(f, chosen[f.setting]))
                for part in chosen_parts(f, before[f.setting]):
                    if part not in kept:
                        gone.update(field.name for field in dataclasses.fields(part.settings))
        return {
            name: value
            for name, value in file.items()
            if name in given or self._setting(name) not in gone
        }

    def _setting(self, name: str) -> str:
        """What a flag sets."""
        to = self.table.get(name, name)
        return to if isinstance(to, str) else to.setting

    def _refuse(self, names: Any, where: str = "--") -> None:
        for name in names:
            if name in self.refused:
                raise UserError(f"{where}{name} cannot be honoured: {self.refused[name]}.")

    def _unknown(self, unknown: Sequence[str], flags: Sequence[Flag]) -> str:
        first = unknown[0]
        name = first.lstrip("-").split("=", 1)[0]
        if first.startswith("--"):
            belongs = self._other_part(name.replace("-", "_"))
            if belongs is not None:
                return f"--{name} {belongs}"
        hint = _close_names(name, [f.name for f in flags], "--")
        what = "flag" if first.startswith("--") else "argument"
        if first.lower().endswith(CONFIG_SUFFIXES):
            hint = "A config file comes before all flags. "
        return f"Unknown {what} {first!r}. {hint}--help lists all flags."

    def _other_part(self, name: str) -> str | None:
        """Whose flag it is, where it is that of a part that is not chosen."""
        setting = self._setting(name)
        for chooser in self._choosers():
            assert chooser.registry is not None
            owners = [
                part.name
                for part in chooser.registry.parts()
                if setting in {f.name for f in dataclasses.fields(part.settings)}
            ]
            if chooser.values:
                owners = [typed for typed, value in chooser.values.items() if value in owners]
            if owners:
                return (
                    f"belongs to --{chooser.name} {' or '.join(owners)}. Remove it, or choose "
                    f"--{chooser.name} {owners[0]}."
                )
        return None

    def _from_file(
        self, path: str, values: Mapping[str, Any], flags: Sequence[Flag]
    ) -> dict[str, Any]:
        """The config file's values by the names of their flags, each checked as if typed.

        What is null is left out: it counts as not given.
        """
        by_name = {name: f for f in flags for name in (f.name, *f.aliases)}
        found: dict[str, Any] = {}
        for name, value in values.items():
            self._refuse([name], f"{path}: ")
            if name not in by_name:
                belongs = self._other_part(str(name))
                if belongs is not None:
                    raise UserError(f"{path}: {name} {belongs}")
                names = sorted(f.name for f in flags)
                hint = _close_names(str(name), names)
                raise UserError(
                    f"{path}: unknown name {name!r}. {hint}Known names: {', '.join(names)}."
                )
            if value is None:
                continue
            flag = by_name[name]
            require(
                flag.name not in found,
                f"{path}: {' and '.join((flag.name, *flag.aliases))} are one setting. Give one of "
                "them.",
            )
            found[flag.name] = _file_value(flag, value)
        return found


def with_preset(
    flags: Sequence[Flag], preset: Mapping[str, Any], elsewhere: Collection[str]
) -> list[Flag]:
    """The flags with a preset's values as their defaults.

    Args:
        elsewhere: settings that the script has no flag for: what a preset says of them is left out.

    Raises:
        UserError: the preset sets what is no setting of the run, or a value that is no choice.
    """
    unknown = set(preset) - {f.setting for f in flags if not f.own} - set(elsewhere)
    require(not unknown, f"--preset sets what this run has not: {', '.join(sorted(unknown))}.")
    found = []
    for f in flags:
        if not f.own and f.setting in preset:
            default = preset[f.setting]
            default = next((t for t, v in (f.values or {}).items() if v == default), default)
            require(
                f.choices is None or default is None or default in f.choices,
                f"--preset sets --{f.name} {default}, which this script has not; expected one of "
                f"{', '.join(map(str, f.choices or ()))}.",
            )
            f = dataclasses.replace(f, default=default)
        found.append(f)
    return found


def _what_it_sets(preset: Mapping[str, Any], message: str, flags: Sequence[Flag]) -> str:
    """What a preset sets of the flags that a message names."""
    names = [f for f in flags if f.setting in preset and f"--{f.name}" in message]
    words = ", ".join(f"--{f.name} {f.default}" for f in names)
    return f" (The preset sets {words}.)" if words else ""


class _Parser(argparse.ArgumentParser):
    """Reports an error on one line, without the usage of a hundred flags."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (--[\w-]+)\S*:", r"\1:", message)
        message = one_line(message).rstrip(".")
        print(f"error: {message}. --help explains all flags.", file=sys.stderr, flush=True)
        raise SystemExit(2)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's line breaks, and shows one spelling of every flag."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = argparse.Action(action.option_strings[:1], action.dest, metavar=action.metavar)
        shown.nargs, shown.choices = action.nargs, action.choices
        return super()._format_action_invocation(shown)


def _parser(
    line: CommandLine[Any], flags: Sequence[Flag], description: str | None
) -> argparse.ArgumentParser:
    loose = "" if line.positional is None else f" {line.positional.upper()} ..."
    parser = _Parser(
        description=description or line.description,
        allow_abbrev=False,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        usage=f"%(prog)s [config.yaml]{loose} [--flag value ...]",
    )
    dashed = issubclass(line.settings, Settings) and line.settings.dashed
    titles = list(dict.fromkeys(f.group for f in flags))
    titles.sort(key=lambda t: LAST_GROUPS.index(t) if t in LAST_GROUPS else -1)
    groups = {title: parser.add_argument_group(title) for title in titles}
    for f in flags:
        _add(groups[f.group], f, dashed)
    return parser


def _only(flags: Sequence[Flag]) -> argparse.ArgumentParser:
    """A parser that looks for these flags only."""
    parser = _Parser(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS)
    for f in flags:
        _add(parser, f, False)
    return parser


def _add(parser: Any, f: Flag, dashed: bool) -> None:
    """Add a flag as transformers' HfArgumentParser does."""
    names = [f"--{name}" for name in _spelled(f.name)]
    options = (names[::-1] if dashed else names) + [
        f"--{name}" for alias in f.aliases for name in _spelled(alias)
    ]
    shown: dict[str, Any] = {"help": _help(f), "dest": f.name}
    if f.kind is bool:
        parser.add_argument(*options, type=_truth, nargs="?", const=True, metavar="BOOL", **shown)
        if f.default is True:
            without = [f"--no_{f.name}", f"--no-{f.name.replace('_', '-')}"]
            parser.add_argument(*without, action="store_false", dest=f.name, help=argparse.SUPPRESS)
        return
    if f.choices is None:
        shown["metavar"] = METAVARS.get(f.kind, "TEXT")
    if f.many:
        shown["nargs"] = "+"
        shown["action"] = "extend" if f.repeatable else "store"
    parser.add_argument(*options, type=f.kind, choices=f.choices, **shown)


def _spelled(name: str) -> list[str]:
    return list(dict.fromkeys([name, name.replace("_", "-")]))


def _help(f: Flag) -> str:
    default = f.default
    if isinstance(default, list):
        default = " ".join(map(str, default)) or None
    # The help says what an unset flag means; a switch is off by default.
    shown = "" if default is None or default is False else f" (default: {default})"
    switch = f" (--no_{f.name} turns it off)" if default is True else ""
    parts = ""
    if f.registry is not None and not f.choices and len(f.registry):
        parts = f" Known: {', '.join(f.registry)}; --{f.name} NAME --help shows the flags of one."
    return (f.help + parts + shown + switch).replace("%%", "%").replace("%", "%%")


def _truth(text: str) -> bool:
    if text.lower() not in TRUTHS:
        raise argparse.ArgumentTypeError(
            f"Truthy value expected: got {text} but expected one of yes/no, true/false, t/f, y/n, "
            "1/0 (case insensitive)."
        )
    return TRUTHS[text.lower()]


def _part_group(f: Flag, settings_class: type) -> str:
    """Title of the group of a part's flag."""
    for chooser in flags_of(settings_class):
        if chooser.registry is None:
            continue
        for part in chooser.registry.parts():
            chosen = part.settings is not NoSettings and issubclass(settings_class, part.settings)
            if chosen and f.setting in {g.name for g in dataclasses.fields(part.settings)}:
                return f"--{chooser.name} {part.name}"
    return f.group


def _mark_switches(arguments: list[str], flags: Sequence[Flag]) -> None:
    """Write `--switch` as `--switch=true` where an argument without a flag follows it."""
    switches = {name for f in flags if f.kind is bool for name in (f.name, *f.aliases)}
    for i, (argument, following) in enumerate(itertools.pairwise(arguments)):
        if (
            _flag_name(argument) in switches
            and "=" not in argument
            and not following.startswith("-")
            and following.lower() not in TRUTHS
        ):
            arguments[i] = f"{argument}=true"


def _spellings(arguments: Sequence[str], flags: Sequence[Flag]) -> dict[str, str]:
    """Setting -> the flag as it was typed, or else is published under another name.

    Raises:
        UserError: a flag was given under two of its names.
    """
    typed = {_flag_name(a): a[2:].split("=", 1)[0] for a in arguments if a.startswith("--")}
    found = {f.setting: f.name for f in flags if f.name != f.setting}
    for f in flags:
        used = [typed[name] for name in (f.name, *f.aliases) if name in typed]
        require(len(used) < 2, f"--{' and --'.join(used)} are one setting. Give one of them.")
        if used:
            found[f.setting] = used[0]
    return found


def _flag_name(argument: str) -> str:
    """ "learning_rate" of "--learning-rate=1e-5"; "" of what is no flag."""
    if not argument.startswith("--"):
        return ""
    return argument[2:].split("=", 1)[0].replace("-", "_")


def _refuse_infinite(value: Any, name: str) -> None:
    """No flag means anything with nan or inf, and most ranges would let inf through."""
    for number in value if isinstance(value, list) else [value]:
        finite = not isinstance(number, float) or math.isfinite(number)
        require(finite, f"{name} {number}: expected a finite number.")


def _close_names(name: str, known: Sequence[str], prefix: str = "") -> str:
    """A hint that ends in a space, or nothing."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(prefix + c for c in close)}? " if close else ""


def _take_config_file(arguments: list[str]) -> str | None:
    """Remove the config file: the first argument, but for a --local_rank of the launcher's."""
    for i, argument in enumerate(arguments):
        if argument.startswith(("--local_rank", "--local-rank")):
            continue
        is_file = argument.lower().endswith(CONFIG_SUFFIXES) and not argument.startswith("-")
        return arguments.pop(i) if is_file else None
    return None


def _read_config_file(path: str) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.lower().endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"The config file {path!r} cannot be read: {error}") from error
    except RecursionError:
        values = None
        deep = True
    else:
        deep = too_deep(values)
    if deep:
        raise UserError(
            f"The config file {path!r} has values more than {MAX_DEPTH} deep inside each other; "
            "expected names and values, one flag a line (learning_rate: 1e-5)."
        )
    if not isinstance(values, dict):
        raise UserError(
            f"The config file {path!r} is a {type(values).__name__}; "
            "expected names and values, one flag a line (learning_rate: 1e-5)."
        )
    return values


def _file_value(f: Flag, value: Any) -> Any:
    """A value of a config file through the flag's own type check."""
    require(
        f.many or not isinstance(value, list),
        f"{f.name} = {value!r} in the config file; expected one value, not a list",
    )
    convert: Callable[[str], Any] = _truth if f.kind is bool else f.kind
    items = value if isinstance(value, list) else [value]
    try:
        items = [convert(str(v)) for v in items]
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise UserError(f"{f.name} = {value!r} in the config file: {error}") from error
    if f.choices is not None and any(v not in f.choices for v in items):
        choices = ", ".join(map(str, f.choices))
        raise UserError(f"{f.name} = {value!r} in the config file; expected {choices}")
    return items if f.many else items[0]
