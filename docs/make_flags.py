"""Writes docs/flags.md: every flag of every command, from the settings that the commands use.

python docs/make_flags.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from dschat.settings.command_line import CommandLine
from dschat.settings.flags import Flag, flags_of
from dschat.settings.registry import PRESETS, Part, Registry

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "flags.md"
sys.path.insert(0, str(ROOT / "tests"))

from command_lines import COMMANDS, SCRIPTS, command_line  # noqa: E402

HEAD = """# All flags

Written by `python docs/make_flags.py` from the settings of the commands. A test keeps it up to
date. `--help` of a command says the same.

- A flag that is on or off is given bare (`--offload`) or with a value (`--offload false`).
  A list takes several values: `--refs A B`.
- Hyphens and underscores are the same.
- The names work in a YAML or JSON file too, which comes before all flags:
  `main.py config.yaml --seed 2`.
- Flags that several commands share are explained at the first of them.
"""


def titles() -> dict[Path, str]:
    """What each script is called: its console command, if there is one."""
    console = {id(command_line(name)): name for name in COMMANDS}
    return {path: console.get(id(line), path.name) for path, line in SCRIPTS.items()}


def registries() -> list[Registry]:
    """All that a flag of a command chooses from."""
    found: list[Registry] = []
    for line in SCRIPTS.values():
        for flag in flags_of(line.settings):
            if flag.registry is not None and flag.registry not in found:
                found.append(flag.registry)
    return found


def shown(value: object) -> str:
    """A default, as one would type it."""
    if value is None or value == []:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def cell(text: str) -> str:
    """The text in a cell of a table."""
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|").replace("<", "&lt;")


def table(flags: Iterable[Flag], dashed: bool = False) -> str:
    """Flags with what they take, their defaults and help."""
    kinds = {int: "integer", float: "number", str: "text", bool: ""}
    rows = ["| flag | takes | default | meaning |", "|---|---|---|---|"]
    for flag in flags:
        takes = ", ".join(f"`{c}`" for c in flag.choices) if flag.choices else kinds[flag.kind]
        takes += " ..." if flag.many else ""
        names = [f"`--{n}`" for n in (flag.name, *flag.aliases)]
        if dashed:
            names = [name.replace("_", "-") for name in names]
        row = (", ".join(names), takes, f"{shown(flag.default)}", flag.help)
        rows.append("| " + " | ".join(map(cell, row)) + " |")
    return "\n".join(rows)


def by_group(flags: Iterable[Flag]) -> dict[str, list[Flag]]:
    """Flags by their group's title, in the order of `--help`."""
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        groups.setdefault(flag.group, []).append(flag)
    return groups


def of_parts() -> list[Flag]:
    """The flags of all parts."""
    return [f for registry in registries() for part in registry.parts() for f in part_flags(part)]


def part_flags(part: Part) -> tuple[Flag, ...]:
    """The flags of a part."""
    return flags_of(part.settings)


def key(flag: Flag) -> tuple[object, ...]:
    """What makes two flags one."""
    default = tuple(flag.default) if isinstance(flag.default, list) else flag.default
    return flag.name, flag.aliases, flag.kind, flag.many, default, flag.choices, flag.help


def command_sections() -> Iterator[str]:
    """A section per command."""
    known: dict[tuple[object, ...], str] = {}
    parts = {key(flag) for flag in of_parts()}
    for path, title in titles().items():
        line: CommandLine[object] = SCRIPTS[path]
        yield f"## {title}\n"
        yield f"`{path.relative_to(ROOT)}`\n"
        again: dict[str, list[str]] = {}
        new = []
        for flag in line.flags():
            first = known.setdefault(key(flag), title)
            if key(flag) in parts:
                continue
            if first == title:
                new.append(flag)
            else:
                again.setdefault(first, []).append(f"`--{flag.name}`")
        for group, members in by_group(new).items():
            yield f"**{group}**\n"
            yield table(members, getattr(line.settings, "dashed", False)) + "\n"
        for first, names in again.items():
            yield f"As for [{first}](#{first.replace('.', '')}): {', '.join(names)}.\n"
        if line.refused:
            names = [f"`--{name}`" for name in line.refused]
            yield f"Refused with a message that names the replacement: {', '.join(names)}.\n"


def part_sections() -> Iterator[str]:
    """A section per registry, with the settings of its parts."""
    for registry in registries():
        yield f"## Each {registry.kind}\n"
        for part in registry.parts():
            yield f"**`{part.name}`**: {part.summary}\n"
            if registry is PRESETS:
                values = (f"`--{name} {cell(shown(v))}`" for name, v in part.load().items())
                yield ", ".join(values) + "\n"
            if flags := part_flags(part):
                yield table(flags) + "\n"


def page() -> str:
    """The text of docs/flags.md."""
    return "\n".join([HEAD, *command_sections(), *part_sections()]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
