"""The parts that a run can be put together from, by name: the only list there is of each kind.

A name maps to the settings of the part (a dataclass of flags with their help and checks) and to
"module:object", which is imported when a run starts, so that `--help` needs no torch. A user's file
(`--plugin my_file.py`) registers its own parts in the same way, before the flags are made.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dschat.errors import UserError

Target = TypeVar("Target")


@dataclass
class NoSettings:
    """The settings of a part that has none."""


@dataclass(frozen=True)
class Part:
    """An entry of a registry.

    Attributes:
        name: what a user types.
        target: the object itself, or "module:object" where it is to be found.
        settings: a dataclass of `flag(...)` fields; its `validate()`, if any, checks a value.
        summary: a line for the documentation.
    """

    name: str
    target: Any
    settings: type = NoSettings
    summary: str = ""

    def load(self) -> Any:
        """The object, imported if need be."""
        if not isinstance(self.target, str):
            return self.target
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


class Registry:
    """Parts of one kind by name; iterating gives the names in the order of registration."""

    def __init__(self, kind: str) -> None:
        """`kind`: what the parts are, for messages ("regularizer")."""
        self.kind = kind
        self._parts: dict[str, Part] = {}

    def add(self, name: str, target: Any, settings: type = NoSettings, summary: str = "") -> Part:
        """Make a part available.

        Raises:
            UserError: the name is taken, or the settings are no dataclass.
        """
        if "__dataclass_fields__" not in vars(settings):
            raise UserError(
                f"The settings of the {self.kind} {name!r}, {settings.__name__}, are no dataclass: "
                "put @dataclass above the class."
            )
        if name in self._parts:
            raise UserError(
                f"There is already a {self.kind} named {name!r}; register it under another name. "
                f"Taken: {', '.join(self)}."
            )
        self._parts[name] = Part(name, target, settings, summary)
        return self._parts[name]

    def register(
        self, name: str, settings: type = NoSettings, summary: str = ""
    ) -> Callable[[Target], Target]:
        """A decorator: `add` for the class or function below it."""

        def decorate(target: Target) -> Target:
            self.add(name, target, settings, summary)
            return target

        return decorate

    def __getitem__(self, name: str) -> Part:
        """The part of that name; raises `UserError`, which lists the names, if there is none."""
        if name not in self._parts:
            close = difflib.get_close_matches(name, self._parts, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise UserError(
                f"There is no {self.kind} named {name!r}. {hint}Known: {', '.join(self)}."
            )
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __len__(self) -> int:
        return len(self._parts)

    def parts(self) -> list[Part]:
        """All parts, in the order of registration."""
        return list(self._parts.values())


REGULARIZERS = Registry("regularizer")
ADVANTAGES = Registry("advantage")
POLICY_LOSSES = Registry("policy loss")
REWARDS = Registry("reward")
PRESETS = Registry("preset")
DATA_SCHEMAS = Registry("data schema")


def import_file(path: str, flag: str) -> Any:
    """Run a user's Python file as a module of its own; a file is run once in a process.

    It can import the modules of its folder.

    Args:
        flag: names the file, for messages ("--plugin").

    Raises:
        UserError: there is no such file, or it raises.
    """
    file = Path(path).expanduser().resolve()
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"{flag} {path}: expected a Python file; there is none at {file}.")
    # The same on all ranks: what they send each other may be of a class of this module.
    name = f"dschat_plugin_{file.stem}_{zlib.crc32(bytes(file)):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(file.parent) not in sys.path:  # last: a neighbour takes no other module's place
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{flag} {path} raised {error!r} when it was imported.") from error
    return module
