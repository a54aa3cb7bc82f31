"""The cut of the train split equals the one that DeepSpeed-Chat makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dschat.data.splits import parse_data_split, split_indices
from dschat.errors import UserError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "data_split.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['size']}:{v['data_split']}")
def test_equals_the_recorded_cuts(vector: dict) -> None:
    parts = split_indices(vector["size"], vector["data_split"], vector["seed"])
    assert [len(part) for part in parts] == vector["lengths"]
    assert [part[:5].tolist() for part in parts] == vector["first5"]
    assert [part[-3:].tolist() for part in parts] == vector["last3"]


@pytest.mark.parametrize("data_split", ["", "2,x,4", "0,0,0", "-1,2,2", "inf,1,1", "nan,1", "2;4"])
def test_unusable_splits_are_explained(data_split: str) -> None:
    with pytest.raises(UserError, match="--data_split"):
        parse_data_split(data_split)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UserError, match=f"--seed {seed}"):
        split_indices(10, "1,1,1", seed)
