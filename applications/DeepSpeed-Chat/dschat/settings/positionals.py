"""Arguments without a flag, for scripts whose settings are dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_origin, get_type_hints

TRUTHS = ("true", "false")


def as_flag(name: str, config_class: type, argv: Sequence[str]) -> list[str]:
    """The arguments with those that stand without a flag gathered behind `--name`.

    `a b --output x c` becomes `--name a b c --output x`.

    Args:
        name: a list field of the dataclass.
        config_class: tells which flags take a value: all but booleans.
        argv: the arguments without the program's name.
    """
    kinds = get_type_hints(config_class)
    loose: list[str] = []
    rest: list[str] = []
    switches: set[str] = set()
    taking = 0  # values that the last flag still takes; -1: any number
    for argument in argv:
        if argument.startswith("-") and argument != "-":
            rest.append(argument)
            # Of `--name=value`, too, nothing follows.
            kind = kinds.get(argument.lstrip("-").replace("-", "_"), bool)
            taking = -1 if get_origin(kind) is list else 0 if kind is bool else 1
            if kind is bool:
                switches.add(argument)
        elif taking or (rest and rest[-1] in switches and argument.lower() in TRUTHS):
            rest.append(argument)
            taking -= taking > 0
        else:
            loose.append(argument)
    return [f"--{name}", *loose, *rest] if loose else rest
