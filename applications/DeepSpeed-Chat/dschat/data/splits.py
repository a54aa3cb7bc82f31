"""How the train split is cut into the SFT, reward and RL parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dschat.errors import UserError


def parse_data_split(data_split: str) -> tuple[float, ...]:
    """Turn "2,4,4" into (2.0, 4.0, 4.0).

    Raises:
        UserError: a part is not a number, is negative or infinite, or all parts are 0.
    """
    expected = (
        "expected numbers that are not negative, separated by commas: SFT, reward, RL; "
        "for example --data_split 2,4,4."
    )
    try:
        parts = tuple(float(part) for part in data_split.split(","))
    except ValueError as error:
        raise UserError(
            f"--data_split {data_split!r} is not a list of numbers; {expected}"
        ) from error
    if not all(math.isfinite(part) and part >= 0 for part in parts) or sum(parts) == 0:
        raise UserError(f"--data_split {data_split!r} cannot be used; {expected}")
    return parts


def split_indices(
    size: int, data_split: str | Sequence[float], seed: int
) -> tuple[np.ndarray, ...]:
    """Cut `size` rows into shuffled parts, with the same rows in each part as DeepSpeed-Chat.

    The rows are shuffled by `RandomState(seed)`. Every part's length is rounded (half to even) and
    the lengths are summed up to boundaries; what the last boundary exceeds `size` by is taken off
    every boundary but the first. Where that would make a boundary negative (parts such as "0,1,1"
    of 3 rows), DeepSpeed-Chat's parts overlap; here the boundary is 0.

    Args:
        size: number of rows.
        data_split: "2,4,4", or the relative sizes as numbers.
        seed: of the shuffle, 0 to 2**32 - 1.

    Returns:
        One array of row numbers per part, int64; together every row exactly once.

    Raises:
        UserError: see `parse_data_split`; or a seed that numpy does not take.

    Source: DeepSpeedExamples, DeepSpeed-Chat, `get_raw_dataset_split_index`.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed} is out of range; expected 0 to 4294967295.")
    parts = parse_data_split(data_split) if isinstance(data_split, str) else tuple(data_split)
    total = sum(parts)
    boundaries = [0]
    for part in parts:
        # The order of the operations decides how halves round: first the share, then the product.
        boundaries.append(boundaries[-1] + round(part / total * float(size)))
    surplus = boundaries[-1] - size
    boundaries = [0] + [max(0, boundary - surplus) for boundary in boundaries[1:]]
    shuffled = np.arange(size, dtype=np.int64)
    np.random.RandomState(seed).shuffle(shuffled)
    return tuple(shuffled[start:end] for start, end in pairwise(boundaries))
