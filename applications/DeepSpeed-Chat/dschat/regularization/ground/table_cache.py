"""Rows of the nearest-token table on disk: plain arrays under a key of the embedding's content.

A table's folder holds files of rows, each written once and read whole. Several runs may add to it
at a time: rows do not depend on who made them.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FORMAT_VERSION = 2
HASHED_ROWS = 8192


class NearestTokens(NamedTuple):
    """For n tokens, the k nearest other tokens of the vocabulary, nearest first.

    Attributes:
        indices: [n, k] int32, token ids.
        costs: [n, k] float32, in the unit of the metric.
    """

    indices: Tensor
    costs: Tensor

    def to(self, device: torch.device) -> NearestTokens:
        """The same rows on another device."""
        return NearestTokens(self.indices.to(device), self.costs.to(device))

    def rows(self, numbers: Tensor) -> NearestTokens:
        """Some of the rows."""
        return NearestTokens(self.indices[numbers], self.costs[numbers])


def cache_path(embeddings: Tensor, k: int, metric: str, cache_dir: str | Path) -> Path:
    """Folder of the table in ``cache_dir``: its name is the SHA-256 of all that determines it.

    Args:
        embeddings: [V, D]; its bytes, dtype and shape enter the key.
        k: neighbours per token as in the table (at most V - 1).
        metric: all else that determines the costs, see `GroundMetric`.
        cache_dir: folder, not necessarily there yet.
    """
    shape = tuple(embeddings.shape)
    digest = hashlib.sha256(f"{FORMAT_VERSION} {shape} {embeddings.dtype} {k} {metric}".encode())
    for rows in embeddings.detach().split(HASHED_ROWS):
        digest.update(rows.cpu().contiguous().view(torch.uint8).numpy())
    return Path(cache_dir) / f"nearest_tokens_{digest.hexdigest()}"


def read(path: Path, shape: tuple[int, int]) -> list[tuple[Tensor, NearestTokens]]:
    """Tokens [n] int64 and their rows, from every sound file of the table at ``path``.

    Args:
        shape: [V, k] of the whole table.
    """
    files = sorted(path.glob("rows_*.npz")) if path.is_dir() else []
    found = (_read_rows(file, shape) for file in files)
    return [rows for rows in found if rows is not None]


def _read_rows(file: Path, shape: tuple[int, int]) -> tuple[Tensor, NearestTokens] | None:
    """What one file holds, or None if it is torn, another table's or not of ``shape``."""
    vocabulary, k = shape
    try:
        with np.load(file, allow_pickle=False) as stored:
            key = str(stored["key"])
            tokens, indices, costs = (stored[name] for name in ("tokens", "indices", "costs"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = (
        key == file.parent.name
        and tokens.ndim == 1
        and indices.shape == costs.shape == (len(tokens), k)
        and (tokens.dtype, indices.dtype, costs.dtype) == (np.int64, np.int32, np.float32)
    )
    if not fits or not len(tokens) or not np.isfinite(costs).all() or (np.diff(tokens) <= 0).any():
        return None
    if any(ids.min() < 0 or ids.max() >= vocabulary for ids in (tokens, indices)):
        return None
    table = NearestTokens(torch.from_numpy(indices), torch.from_numpy(costs))
    return torch.from_numpy(tokens), table


def write(path: Path, tokens: Tensor, rows: NearestTokens) -> None:
    """Add a file with the rows of some tokens; readers see it whole or not. A failure only warns.

    The same tokens give the same name, so that a damaged file is replaced. The rows are in memory
    already, so that a full or read-only disk costs the next run its time and not this run its
    result.
    """
    ids = tokens.cpu().numpy()
    name = f"rows_{hashlib.sha256(ids.tobytes()).hexdigest()[:32]}"
    temporary = None
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Not by tempfile, whose files nobody else may read: a table can be shared.
        temporary = path / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with open(temporary, "xb") as file:
            np.savez(
                file,
                key=np.array(path.name),
                tokens=ids,
                indices=rows.indices.cpu().numpy(),
                costs=rows.costs.cpu().numpy(),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path / f"{name}.npz")
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        warnings.warn(
            f"could not keep the nearest-token table in {path.parent} ({error}); it will be made "
            "again next time: free some space or choose another cache folder",
            stacklevel=2,
        )
