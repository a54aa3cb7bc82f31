"""Settings as dataclasses whose fields are flags.

    @dataclass
    class Training(Settings):
        learning_rate: float = flag(1e-3, "Peak learning rate.", group="Training")
        warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from dschat.errors import UserError
from dschat.settings.registry import NoSettings, Registry

RESUMING = "Checkpoints and resuming"
RARELY_NEEDED = "Rarely needed"
"""Published flags that do nothing for most users."""
TRACKING = "Tracking and publishing"
LAST_GROUPS = (TRACKING, RESUMING, RARELY_NEEDED)
"""Titles of the groups that `--help` shows last."""


def flag(
    default: Any,
    help: str,
    *,
    group: str | None = None,
    choices: Sequence[Any] | None = None,
    aliases: Sequence[str] = (),
    registry: Registry | None = None,
    repeatable: bool = False,
) -> Any:
    """A dataclass field with its flag; the type hint says what the flag takes.

    Args:
        default: may be a list.
        help: what `--help` says; the default is added to it.
        group: title of the group of flags that begins with this one, up to the next title; groups
            of the same title are merged.
        aliases: other names of the flag, without dashes.
        registry: the value names a part (for a list: parts), whose settings become flags too.
        repeatable: a list flag that may be given several times, each adding to it.
    """
    metadata = {
        "help": help,
        "group": group,
        "choices": choices,
        "aliases": tuple(aliases),
        "registry": registry,
        "repeatable": repeatable,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def chat_template_flag() -> Any:
    """The flag `--apply_chat_template`."""
    return flag(
        False,
        "Write prompts that are plain texts with the model's chat template: a dialogue "
        "(Human: ... Assistant:) as its turns, any other text as a user's turn.",
    )


def plugin_flag(parts: str) -> Any:
    """The flag `--plugin` of a script: the settings' field must have this name.

    Args:
        parts: what files of the user's may register for this script.
    """
    return flag(
        None,
        f"A Python file of yours that registers {parts} (docs/extending.md); it is run before the "
        "flags are read. May be given several times.",
        repeatable=True,
    )


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` if the condition is false."""
    if not condition:
        raise UserError(message)


def refuse_given(settings: Settings, name: str, unless: Any, belongs_to: str) -> None:
    """Refuse a flag that was given and would have no effect; raises `UserError`."""
    require(
        bool(unless) or name not in settings.given,
        f"{settings.flag(name)} belongs to {belongs_to}. Remove it, or add that flag.",
    )


def require_at_least(settings: Settings, lowest: float, *names: str) -> None:
    """Refuse values below `lowest`; those that are unset (None) pass."""
    for name in names:
        value = getattr(settings, name)
        require(
            value is None or value >= lowest,
            f"{settings.flag(name)} {value}: expected {lowest} or more.",
        )


@dataclass(frozen=True)
class Flag:
    """A flag of a command line.

    Attributes:
        name: as it is published, with underscores.
        setting: the field that it sets.
        kind: bool, int, float or str: the type of the value, or of each value of a list.
        many: whether it takes one or more values.
        default: the setting's value where the flag is not given.
        values: what is typed -> the setting's value, where they differ.
        own: whether it is a flag of this script only (see `CommandLine.own`).
    """

    name: str
    setting: str
    kind: type
    many: bool
    default: Any
    help: str
    group: str
    choices: tuple[Any, ...] | None = None
    aliases: tuple[str, ...] = ()
    registry: Registry | None = None
    repeatable: bool = False
    values: Mapping[str, Any] | None = None
    own: bool = False


class Settings:
    """Base of dataclasses of flags: knows which settings were given, and their flags' names.

    Attributes:
        given: the settings that were given: on the command line, in a config file, or to the
            constructor. Not a field: neither compared nor written. `replace` keeps it.
        published: the flags of the script that these settings come from; empty: under the
            settings' own names.
        spellings: setting -> the flag as it was typed, or is published under another name.
        own_flags: values of flags that only this script has (see `CommandLine.own`), or None.
    """

    dashed: ClassVar[bool] = False
    """Whether flags are published with hyphens (--batch-size), for messages and `--help`."""
    derived: ClassVar[tuple[str, ...]] = ()
    """Settings that follow from others where they are not given: so it is, too, where a run's
    config.yaml, which says what they were, is given back with other flags."""

    given: frozenset[str]
    published: tuple[Flag, ...]
    spellings: Mapping[str, str]
    own_flags: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note which settings are given to the constructor."""
        self = super().__new__(cls)
        positional = [f.name for f in dataclasses.fields(cls)][: len(args)]  # type: ignore[arg-type]
        self.given = frozenset([*positional, *kwargs])
        self.published, self.spellings = (), {}
        self.own_flags = None
        return self

    def flag(self, name: str) -> str:
        """The flag that sets a setting, as this script's user types it: "--learning_rate"."""
        own = name.replace("_", "-") if self.dashed else name
        return f"--{self.spellings.get(name, own)}"

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; which settings were given stays as it is."""
        changed = copy.copy(self)
        for name, value in changes.items():
            if name not in vars(self):
                raise TypeError(f"{type(self).__name__} has no setting {name!r}")
            setattr(changed, name, value)
        return changed

    def part(self, name: str) -> Any:
        """The settings of the part that setting `name` chooses, as the part's own dataclass."""
        registry = next(f for f in flags_of(type(self)) if f.setting == name).registry
        assert registry is not None
        return self._as(registry[getattr(self, name)].settings)

    def _as(self, settings_class: type) -> Any:
        names = [f.name for f in dataclasses.fields(settings_class)]
        part = settings_class(**{name: getattr(self, name) for name in names})
        if isinstance(part, Settings):
            part.given = self.given & set(names)
            part.published, part.spellings = self.published, self.spellings
        return part

    def validate_parts(self) -> None:
        """Check the settings of the chosen parts by their own `validate`, where they have one.

        Raises:
            UserError: an unknown part, or what its `validate` raises.
        """
        for chooser in flags_of(type(self)):
            for part in chosen_parts(chooser, getattr(self, chooser.setting)):
                settings = self._as(part.settings)
                if hasattr(settings, "validate"):
                    settings.validate()

    def as_flags(self) -> dict[str, Any]:
        """Published flag -> value, of all flags of this script: the contents of config.yaml.

        It can be used as a config file.
        """
        found = {}
        for f in self.published or flags_of(type(self)):
            value = getattr(self.own_flags if f.own else self, f.setting)
            for typed, meant in (f.values or {}).items():
                if value == meant:
                    value = typed
                    break
            found[f.name] = copy.copy(value)
        return found

    def given_flags(self) -> list[str]:
        """The flags that were given, by their published names, sorted."""
        flags = self.published or flags_of(type(self))
        return sorted(
            f.name for f in flags if f.setting in (self.own_flags if f.own else self).given
        )


def chosen_parts(chooser: Flag, value: Any) -> Iterator[Any]:
    """The parts (`registry.Part`) that a value of this flag names.

    An entry of a list may have more after a colon (`name:weight`), or name no part (`file.py:f`).

    Raises:
        UserError: there is no part of that name.
    """
    if chooser.registry is None or value is None:
        return
    if isinstance(value, list):
        names = [entry.split(":")[0] for entry in value]
        yield from (chooser.registry[name] for name in names if name in chooser.registry)
    else:
        yield chooser.registry[value]


_FLAGS: dict[type, tuple[Flag, ...]] = {}


def flags_of(settings_class: type) -> tuple[Flag, ...]:
    """The flags of a dataclass under the names of its fields, in their order."""
    if settings_class not in _FLAGS:
        _FLAGS[settings_class] = _flags_of(settings_class)
    return _FLAGS[settings_class]


def _flags_of(settings_class: type) -> tuple[Flag, ...]:
    hints = get_type_hints(settings_class)
    group = "Flags"
    found = []
    for field in dataclasses.fields(settings_class):
        if "help" not in field.metadata or not field.init:
            continue
        group = _group(settings_class, field.name) or group
        kind, many, choices = _kind(hints[field.name])
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append(
            Flag(
                name=field.name,
                setting=field.name,
                kind=kind,
                many=many,
                default=default,
                help=field.metadata["help"],
                group=group,
                choices=tuple(field.metadata.get("choices") or choices) or None,
                aliases=field.metadata.get("aliases", ()),
                registry=field.metadata.get("registry"),
                repeatable=field.metadata.get("repeatable", False),
            )
        )
    return tuple(found)


def _group(settings_class: type, name: str) -> str | None:
    """The title given to a field, by the class itself or, where it is overridden, by a base."""
    for base in settings_class.__mro__:
        field = vars(base).get("__dataclass_fields__", {}).get(name)
        if field is not None and field.metadata.get("group"):
            return field.metadata["group"]
    return None


def _kind(hint: Any) -> tuple[type, bool, tuple[Any, ...]]:
    """Type of a value, whether there are several, and the choices that the hint names."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is Literal:
        return str, False, get_args(hint)
    if get_origin(hint) is list:
        return get_args(hint)[0], True, ()
    return hint, False, ()


@functools.cache
def _combined(settings_class: type, part_classes: tuple[type, ...]) -> type:
    namespace = {"__module__": settings_class.__module__, "__doc__": settings_class.__doc__}
    return dataclasses.make_dataclass(
        settings_class.__name__, [], bases=(settings_class, *part_classes), namespace=namespace
    )


def with_parts(settings_class: type, **chosen: Any) -> type:
    """The dataclass of these settings and of the settings of the chosen parts, all side by side.

    `with_parts(OnlineSettings, regularizer="wasserstein")(epsilon=0.05, ...)`.

    Args:
        chosen: values of the settings that choose a part; the default is taken for the others.

    Raises:
        UserError: there is no such part, or its flags have names of other settings.
    """
    flags = flags_of(settings_class)
    own = {f.setting for f in flags}
    part_classes: list[type] = []
    for chooser in flags:
        for part in chosen_parts(chooser, chosen.get(chooser.setting, chooser.default)):
            if part.settings in (NoSettings, *part_classes):
                continue
            names = {f.name for f in dataclasses.fields(part.settings)}
            taken = {name for name in names if name in own or hasattr(settings_class, name)}
            require(
                not taken,
                f"The {chooser.registry.kind if chooser.registry else ''} {part.name!r} has "
                f"settings with the names of others: {', '.join(sorted(taken))}. Rename them.",
            )
            own |= names
            part_classes.append(part.settings)
    return _combined(settings_class, tuple(part_classes)) if part_classes else settings_class
