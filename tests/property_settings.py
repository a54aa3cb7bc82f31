"""How often Hypothesis tries each property, and with which numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

# derandomize: the same examples in every run, so that a change is not blamed for what chance has
# found, and nobody starts CI again until it passes. No deadline: the first call of torch or of a
# parser is slow.
FIXED = {"deadline": None, "derandomize": True, "database": None}
# Set by scripts/test.sh --nightly.
NIGHTLY = "DSCHAT_NIGHTLY" in os.environ


def _tried(examples: int) -> Callable[[Any], Any]:
    if not NIGHTLY:
        return settings(max_examples=examples, **FIXED)
    more = settings(max_examples=35 * examples, deadline=None, database=None, print_blob=True)
    return lambda test: pytest.mark.nightly(more(test))


checked = _tried(60)
checked_less = _tried(20)
