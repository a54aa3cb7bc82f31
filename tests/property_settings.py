"""How often hypothesis tries each property, and with which numbers."""

from __future__ import annotations

from hypothesis import settings

# derandomize: the same examples in every run, so that a change is not blamed for what chance has
# found, and nobody starts CI again until it passes. To look for more, take that out and raise
# max_examples. No deadline: the first call of torch or of a parser is slow.
FIXED = {"deadline": None, "derandomize": True, "database": None}
checked = settings(max_examples=60, **FIXED)
checked_less = settings(max_examples=20, **FIXED)
