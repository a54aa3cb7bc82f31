"""The time that chat templates see (`strftime_now`): one moment for a whole run.

Some templates write today's date into every prompt. A run that is resumed the next day, or
ranks that start around midnight, would otherwise have other prompts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

# Of strftime, glibc's unpadded forms first. Templates are given no function of ours (transformers
# hands on plain data only): a macro looks the codes up.
CODES = [f"%-{c}" for c in "dmHIMSjy"] + [f"%{c}" for c in "aAbBcdDeFHIjklmMpPrRSTuUVwWxXyYGzZ"]
MACRO = (
    "{%- macro strftime_now(pattern) -%}{%- set told = namespace(text=pattern) -%}"
    "{%- for code, value in dschat_time.items() -%}"
    "{%- set told.text = told.text | replace(code, value) -%}{%- endfor -%}"
    "{{- told.text -}}{%- endmacro -%}"
)

_moment: datetime | None = None
_was_asked = False


def freeze(moment: str | None) -> str:
    """Set the time; None: now. Checkpoints keep what is returned, for the resumed run.

    Args:
        moment: as an earlier `freeze` returned it (ISO 8601, local time).
    """
    global _moment, _was_asked
    _moment = datetime.now().replace(microsecond=0) if moment is None else _parsed(moment)
    _was_asked = False
    return _moment.isoformat()


def frozen() -> str:
    """The time that templates see; frozen now where it has not been."""
    return freeze(None) if _moment is None else _moment.isoformat()


def was_asked() -> bool:
    """Whether a template that writes the time has been used since it was frozen."""
    return _was_asked


def at_this_time(tokenizer: Any) -> dict[str, Any]:
    """Options of `apply_chat_template` that let a template write the frozen time."""
    global _was_asked
    template = tokenizer.get_chat_template()
    if "strftime_now" not in template:
        return {}
    _was_asked = True
    moment = _parsed(frozen())
    codes = {code: moment.strftime(code) for code in CODES}
    return {"chat_template": MACRO + template, "dschat_time": codes}


def _parsed(moment: str) -> datetime:
    try:
        return datetime.fromisoformat(moment)
    except (TypeError, ValueError):  # a checkpoint of another version
        return datetime.now().replace(microsecond=0)
