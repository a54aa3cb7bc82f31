"""The nearest-token table: the k nearest other tokens of each token, found when first needed.

A batch needs the rows of its support only, a few thousand of a vocabulary of 262,144: on a CPU
seconds in the place of the better part of an hour. On a GPU the whole table takes seconds and is
made at once. Rows are kept in memory and on disk (see ``table_cache``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dschat.regularization.ground import table_cache
from dschat.regularization.ground.metric import GroundMetric, at_most_float32
from dschat.regularization.ground.nearest import nearest_of
from dschat.regularization.ground.table_cache import NearestTokens

SCORES_PER_BLOCK = {"cpu": 2**26, "cuda": 2**29}
"""Distances held at once: bounds memory, not the result."""
KEPT_FROM_SHARE = 0.25
"""New rows are written once they are so many times those on disk, so that files stay few."""

Progress = Callable[[int], AbstractContextManager[Any]]
"""Shows how far some steps of so many are: a bar with `update(steps)`, as `tqdm` makes it."""


class NearestTable:
    """The k nearest other tokens of each of V tokens (k is cut to V - 1).

    A token is never its own neighbour, even when others have the same embedding; those are
    neighbours at cost 0. A row is the same whenever, and beside whichever others, it is made.

    Args:
        embeddings: [V, D] floating point, finite.
        k: neighbours per token, at least 1.
        metric: of these embeddings, or the cost type of one, see `GroundMetric`.
        block_size: rows per block at most; bounds memory, the result does not change.
        cache_dir: folder for the rows; None keeps them in memory only.
        writes: add rows to `cache_dir`, not only read them: one process of each node does.
        progress: shows how far the making of new rows is.

    Raises:
        ValueError: on inputs that have no such table.
    """

    def __init__(
        self,
        embeddings: Tensor,
        k: int,
        metric: GroundMetric | str = "L2",
        block_size: int = 1024,
        cache_dir: str | Path | None = None,
        writes: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if k < 1 or block_size < 1:
            raise ValueError(
                f"given k = {k} and block_size = {block_size}, expected both at least 1"
            )
        if isinstance(metric, str):
            metric = GroundMetric(at_most_float32(embeddings), metric)
        embeddings = embeddings.detach()
        self.vocabulary, self.k = len(embeddings), min(k, len(embeddings) - 1)
        self.metric_key, self.writes, self.progress = metric.key, writes, progress
        self._metric: GroundMetric | None = metric
        device = embeddings.device
        scores = SCORES_PER_BLOCK.get(device.type, SCORES_PER_BLOCK["cpu"])
        self._rows_per_block = max(1, min(block_size, scores // self.vocabulary))
        # Where each token's row is in `_found`; -1: not made yet.
        self._place = torch.full((self.vocabulary,), -1, device=device)
        self._found = NearestTokens(
            torch.empty(0, self.k, dtype=torch.int32, device=device),
            torch.empty(0, self.k, dtype=torch.float32, device=device),
        )
        self._path: Path | None = None
        self._unsaved = torch.empty(0, dtype=torch.int64, device=device)
        if cache_dir is not None:
            self._path = table_cache.cache_path(embeddings, self.k, metric.key, cache_dir)
            for tokens, rows in table_cache.read(self._path, (self.vocabulary, self.k)):
                new = self._place[tokens.to(device)] < 0
                self._add(tokens.to(device)[new], rows.to(device).rows(new))
        if device.type == "cuda":
            self._make(torch.arange(self.vocabulary, device=device))

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._found.costs.device

    @property
    def is_whole(self) -> bool:
        """Whether every row has been made."""
        return len(self._found.costs) == self.vocabulary

    def rows(self, tokens: Tensor) -> NearestTokens:
        """The rows of `tokens` [n] int64; those that are new are made now."""
        tokens = tokens.to(self.device)
        self._make(tokens)
        return self._found.rows(self._place[tokens])

    def whole(self) -> NearestTokens:
        """All rows; on a CPU this may take long."""
        every = torch.arange(self.vocabulary, device=self.device)
        self._make(every)
        return self._found if self._place.equal(every) else self.rows(every)

    def _make(self, tokens: Tensor) -> None:
        """Find those rows that are not there."""
        new = torch.unique(tokens[self._place[tokens] < 0])
        if not len(new):
            return
        metric = self._metric
        assert metric is not None
        parts = []
        with nullcontext() if self.progress is None else self.progress(len(new)) as bar:
            for part in new.split(self._rows_per_block):
                ids, squared = nearest_of(metric.points, metric.squared_norms, part, self.k)
                parts.append(NearestTokens(ids, metric.of_squared(squared)))
                if bar is not None:
                    bar.update(len(part))
        indices, costs = (torch.cat(column) for column in zip(*parts, strict=True))
        self._add(new, NearestTokens(indices, costs))
        self._unsaved = torch.cat([self._unsaved, new])
        self._save()

    def _add(self, tokens: Tensor, rows: NearestTokens) -> None:
        known = len(self._found.costs)
        self._place[tokens] = torch.arange(known, known + len(tokens), device=self.device)
        joined = (torch.cat(pair) for pair in zip(self._found, rows, strict=True))
        self._found = NearestTokens(*joined)
        if self.is_whole:
            self._metric = None  # has done its part

    def _save(self) -> None:
        if self._path is None or not self.writes:
            return
        saved = len(self._found.costs) - len(self._unsaved)
        if len(self._unsaved) >= KEPT_FROM_SHARE * saved:
            tokens = self._unsaved.sort().values
            table_cache.write(self._path, tokens, self._found.rows(self._place[tokens]))
            self._unsaved = self._unsaved[:0]


def nearest_tokens(
    embeddings: Tensor,
    k: int,
    cost_type: str = "L2",
    block_size: int = 1024,
    cache_dir: str | Path | None = None,
) -> NearestTokens:
    """The whole table; arguments as of `NearestTable`."""
    return NearestTable(embeddings, k, cost_type, block_size, cache_dir).whole()
