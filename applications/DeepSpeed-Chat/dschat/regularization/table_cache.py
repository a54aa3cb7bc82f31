"""The nearest-token table, and its file: plain arrays under a key of the embedding's content."""

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

FORMAT_VERSION = 1
HASHED_ROWS = 8192


class NearestTokens(NamedTuple):
    """For V tokens, the k nearest other tokens, nearest first.

    Attributes:
        indices: [V, k] int32, token ids.
        costs: [V, k] float32, their distance: L2 in units of the embedding, or 1 - cosine.
    """

    indices: Tensor
    costs: Tensor

    def to(self, device: torch.device) -> NearestTokens:
        """The same table on another device."""
        return NearestTokens(self.indices.to(device), self.costs.to(device))


def cache_path(embeddings: Tensor, k: int, cost_type: str, cache_dir: str | Path) -> Path:
    """File of the table in ``cache_dir``: its name is the SHA-256 of all that determines it.

    Args:
        embeddings: [V, D]; its bytes, dtype and shape enter the key.
        k: neighbours per token as in the table (at most V - 1).
        cost_type: ``L2`` or ``cos``.
        cache_dir: folder, not necessarily there yet.
    """
    shape = tuple(embeddings.shape)
    digest = hashlib.sha256(f"{FORMAT_VERSION} {shape} {embeddings.dtype} {k} {cost_type}".encode())
    for rows in embeddings.detach().split(HASHED_ROWS):
        digest.update(rows.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return Path(cache_dir) / f"nearest_tokens_{digest.hexdigest()}.npz"


def read(path: Path, shape: tuple[int, int]) -> NearestTokens | None:
    """The table stored at ``path``, or None if it is absent, torn or not of ``shape`` [V, k]."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            key, indices, costs = str(stored["key"]), stored["indices"], stored["costs"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    fits = (
        key == path.stem
        and indices.shape == costs.shape == shape
        and indices.dtype == np.int32
        and costs.dtype == np.float32
    )
    if not fits or indices.min() < 0 or indices.max() >= shape[0] or not np.isfinite(costs).all():
        return None
    return NearestTokens(torch.from_numpy(indices), torch.from_numpy(costs))


def write(path: Path, table: NearestTokens) -> None:
    """Store the table; readers see the whole file or none. A failure only warns.

    The table is in memory already, so that a full or read-only disk costs the next run its time
    and not this run its result.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by tempfile, whose files nobody else may read: a table can be shared.
        temporary = path.with_name(f".{path.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        with open(temporary, "xb") as file:
            np.savez(
                file,
                key=np.array(path.stem),
                indices=table.indices.cpu().numpy(),
                costs=table.costs.cpu().numpy(),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        warnings.warn(
            f"could not keep the nearest-token table in {path.parent} ({error}); it will be built "
            "again next time: free some space or choose another cache folder",
            stacklevel=2,
        )
