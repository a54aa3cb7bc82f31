"""The forms in which a response can say its answer; `dschat.rewards.maths` reads them."""

from __future__ import annotations

from collections.abc import Sequence

from dschat.settings.command_line import require

FORMS = ("tags", "hashes", "boxed", "phrase", "last_number")
PUBLISHED_FORMS = ("tags",)


def check_forms(forms: Sequence[str]) -> None:
    """Refuse names that are no form, none at all, and one that is given twice.

    Raises:
        UserError: they are.
    """
    known = ", ".join(FORMS)
    given = " ".join(forms)
    require(
        bool(forms) and set(forms) <= set(FORMS) and len(set(forms)) == len(forms),
        f"--answer_extraction {given}: expected one or more of {known}, each once, in the order "
        "in which they are to be looked for.",
    )
