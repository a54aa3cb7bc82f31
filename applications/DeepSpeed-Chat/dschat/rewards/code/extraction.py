"""Where the program is in a response."""

from __future__ import annotations

import re
import textwrap

# A fence stands at the beginning of a line; its label, if any, behind it. What is behind it is one
# piece of the pattern: several would be tried in all ways to cut a long line.
_FENCE = re.compile(r"^[ \t]*```([^\n`]*)$", re.MULTILINE)
_PYTHON_LABELS = frozenset(["python", "python3", "py", "py3"])


def extract_program(response: str) -> str:
    """The program in a response.

    1. The last block between ``` fences that is labelled python, python3, py or py3.
    2. Else the last block without a label.
    3. Else the whole response, as models write that were fine-tuned on bare programs.

    A last block that is not closed, as in a response cut at its length limit, ends with the
    response. Blocks of other languages never count: a response that has only such is taken as a
    whole and will not compile. An indented block loses its common indentation.
    """
    blocks = _blocks(response)
    for labels in (_PYTHON_LABELS, frozenset([""])):
        bodies = [body for label, body in blocks if label in labels]
        if bodies:
            return textwrap.dedent(bodies[-1])
    return response


def _blocks(response: str) -> list[tuple[str, str]]:
    """Label and body of each fenced block."""
    fences = list(_FENCE.finditer(response))
    blocks = []
    for i in range(0, len(fences), 2):
        end = fences[i + 1].start() if i + 1 < len(fences) else len(response)
        label = (fences[i][1].lower().split() or [""])[0]
        blocks.append((label, response[fences[i].end() : end].removeprefix("\n")))
    return blocks


def with_starter_code(program: str, starter_code: str, function: str | None) -> str:
    """The starter code put before a program that continues it.

    That is so if the starter code defines the function to call and the program does not.
    """
    if function is None or not starter_code.strip():
        return program
    definition = re.compile(rf"\bdef\s+{re.escape(function)}\b")
    if definition.search(program) or not definition.search(starter_code):
        return program
    return f"{starter_code.rstrip()}\n{program}"


def has_statements(program: str) -> bool:
    """Whether a program has more than blank lines and comments."""
    lines = (line.strip() for line in program.splitlines())
    return any(line and not line.startswith("#") for line in lines)
