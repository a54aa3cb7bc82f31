"""What DeepSpeed's checkpoint files hold."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from dschat.checkpoint.engine_checkpoint import checked_files


class Stage(int, Enum):
    """Pickled as Python 3.11.0 to 3.11.3 pickle every enumeration (Debian 12 has 3.11.2)."""

    WEIGHTS = 3

    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (type(self), self.name)


def test_members_of_enumerations_are_saved_as_their_values(tmp_path: Path) -> None:
    state = {
        "optimizer_state_dict": OrderedDict(zero_stage=Stage.WEIGHTS, groups=[(Stage.WEIGHTS, 1)]),
        "weights": torch.arange(3),
    }
    checked_files().save(state, str(tmp_path / "state.pt"))
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    assert found["optimizer_state_dict"] == OrderedDict(zero_stage=3, groups=[(3, 1)])
    assert type(found["optimizer_state_dict"]["zero_stage"]) is int
    assert found["weights"].tolist() == [0, 1, 2]
    assert state["optimizer_state_dict"]["zero_stage"] is Stage.WEIGHTS
