"""The kernel between tokens that a nearest-token table gives: over all tokens, and on a support.

Making it symmetric means sorting all pairs, so it is done once per model; a batch then only picks
rows and columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dschat.regularization.ground.table_cache import NearestTokens

NEGLIGIBLE = 1e-16
"""Kernel entries below this do nothing beside the same constant in the scaling iteration."""
ENTRIES_PER_BLOCK = {"cpu": 2**21, "cuda": 2**25}
"""Entries looked at together: bounds memory, not the result."""
LARGEST_INT32 = torch.iinfo(torch.int32).max


class VocabularyKernel(NamedTuple):
    """K_ij = exp(-C_ij / epsilon) over V tokens, symmetric, by compressed rows, diagonal included.

    Attributes:
        epsilon: unit of the costs in the exponent.
        starts: [V + 1] int64, where each row begins in ``columns`` and ``costs``.
        columns: [M] int32, ascending within a row.
        costs: [M] float32, all so small that exp(-cost / epsilon) is a normal float32.
        above: [V] int64, entries of each token's row of the table whose value exceeds
            ``NEGLIGIBLE``.
        table_width: entries per row of the table.
    """

    epsilon: float
    starts: Tensor
    columns: Tensor
    costs: Tensor
    above: Tensor
    table_width: int


def vocabulary_kernel(
    table: NearestTokens, epsilon: float, tokens: Tensor | None = None
) -> VocabularyKernel:
    """Kernel of all tokens of a table; its memory is at most 16 bytes per entry of the table.

    An entry is kept where j is among the nearest tokens of i or the other way round; both get the
    larger value. All others have infinite cost. Entries that are 0 or subnormal in float32 are left
    out: they cannot reach the iteration's constant 1e-16, and subnormal arithmetic is slow.

    Args:
        tokens: [n] int64, ascending, to which the rows of the table belong, where it is not the
            whole vocabulary. The kernel is then that among these tokens, by their numbers 0 to
            n - 1.

    Raises:
        ValueError: if epsilon is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"given epsilon = {epsilon}, expected a positive number")
    size, width = table.indices.shape
    rows = max(1, size)  # no tokens: one block of none
    values = torch.exp(-table.costs / epsilon)
    kept = values >= torch.finfo(torch.float32).tiny
    above = (values > NEGLIGIBLE).sum(1)
    del values
    if tokens is not None:
        table, kept = _among(table, kept, tokens)
    # 32-bit keys sort faster.
    per_block = max(1, min(2 * ENTRIES_PER_BLOCK["cuda"] // width, LARGEST_INT32 // rows))
    parts = [
        _symmetric_rows(table, kept, start, min(start + per_block, size))
        for start in range(0, rows, per_block)
    ]
    counts, columns, costs = (torch.cat(column) for column in zip(*parts, strict=True))
    return VocabularyKernel(epsilon, _starts(counts), columns, costs, above, width)


def _among(table: NearestTokens, kept: Tensor, tokens: Tensor) -> tuple[NearestTokens, Tensor]:
    """The table with the numbers of `tokens` in the place of their ids, and which entries stay."""
    number = torch.searchsorted(tokens.int(), table.indices).clamp_(max=len(tokens) - 1)
    return table._replace(indices=number.int()), kept & (tokens[number] == table.indices)


def _symmetric_rows(
    table: NearestTokens, kept: Tensor, start: int, end: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Entries per row, columns and costs of the tokens from ``start`` to ``end``."""
    tokens = len(table.indices)
    device = table.indices.device
    own_row, own_place = kept[start:end].nonzero(as_tuple=True)
    is_listed = kept & (table.indices >= start) & (table.indices < end)
    lister, place = is_listed.nonzero(as_tuple=True)
    diagonal = torch.arange(end - start, device=device)
    rows = torch.cat([diagonal, own_row, table.indices[lister, place] - start])
    columns = torch.cat([start + diagonal, table.indices[start:end][own_row, own_place], lister])
    costs = torch.cat(
        [
            table.costs.new_zeros(end - start),
            table.costs[start:end][own_row, own_place],
            table.costs[lister, place],
        ]
    )
    keys, order = (rows * tokens + columns).int().sort()
    costs = costs[order]
    # A pair that both tokens list stands twice, side by side: keep it once with its smaller cost.
    repeated = keys[1:] == keys[:-1]
    costs[:-1] = torch.where(repeated, torch.minimum(costs[:-1], costs[1:]), costs[:-1])
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = ~repeated
    keys = keys[first]
    counts = torch.bincount(keys // tokens, minlength=end - start)
    return counts, keys % tokens, costs[first]


class SymmetricKernel(NamedTuple):
    """A symmetric transport kernel on S bins, by compressed rows, its diagonal of ones included.

    Attributes:
        size: S.
        starts: [S + 1], int32 where that is enough, as of ``columns``.
        columns: [M], ascending within a row.
        values: [M] float32, exp(-cost / epsilon), all normal numbers above 0.
        costs: [M] float32.
        share_above: share of the table's entries of the S tokens whose value exceeds
            ``NEGLIGIBLE`` (0 if there are none).
    """

    size: int
    starts: Tensor
    columns: Tensor
    values: Tensor
    costs: Tensor
    share_above: float

    @property
    def rows(self) -> Tensor:
        """[M] int64."""
        counts = self.starts[1:] - self.starts[:-1]
        return torch.arange(self.size, device=counts.device).repeat_interleave(counts)


def symmetric_kernel(
    vocabulary: VocabularyKernel, support: Tensor, extra_bins: int = 0
) -> SymmetricKernel:
    """Kernel of the tokens ``support`` [S], and of bins tied to nothing but themselves after them.

    Args:
        support: int64, sorted, without repetition, on the device of ``vocabulary``.
        extra_bins: rows added at the end with kernel 1 on the diagonal and 0 elsewhere.
    """
    size = len(support)
    position = support.new_full((len(vocabulary.starts) - 1,), -1, dtype=torch.int32)
    position[support] = torch.arange(size, dtype=torch.int32, device=support.device)
    # Where no token has a neighbour near enough, all rows are as those of the extra bins.
    is_identity = len(vocabulary.columns) == len(position)
    coupled = support[:0] if is_identity else support
    widest = max(1, len(vocabulary.columns) // max(1, len(position)))
    block = ENTRIES_PER_BLOCK.get(support.device.type, ENTRIES_PER_BLOCK["cpu"])
    parts = [
        _rows_within(vocabulary, rows, position) for rows in coupled.split(max(1, block // widest))
    ]
    alone = torch.arange(len(coupled), size + extra_bins, device=support.device)
    parts.append((torch.ones_like(alone), alone.int(), vocabulary.costs.new_zeros(len(alone))))
    counts, columns, costs = (torch.cat(column) for column in zip(*parts, strict=True))
    starts = _starts(counts)
    if len(columns) <= LARGEST_INT32:
        starts = starts.int()
    else:
        columns = columns.long()
    listed = size * vocabulary.table_width
    above = int(vocabulary.above[support].sum())
    return SymmetricKernel(
        size=size + extra_bins,
        starts=starts,
        columns=columns,
        values=torch.exp(-costs / vocabulary.epsilon),
        costs=costs,
        share_above=above / listed if listed else 0.0,
    )


def _rows_within(
    vocabulary: VocabularyKernel, rows: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, columns in the support and costs of some rows' entries within the support."""
    begin = vocabulary.starts[rows]
    counts = vocabulary.starts[rows + 1] - begin
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    entries = torch.arange(total, device=rows.device)
    entries += (begin - ends + counts).repeat_interleave(counts, output_size=total)
    columns = position.index_select(0, vocabulary.columns.index_select(0, entries))
    inside = columns >= 0
    kept = _starts(inside)[torch.cat([ends.new_zeros(1), ends])]
    return kept.diff(), columns[inside], vocabulary.costs.index_select(0, entries[inside])


def _starts(counts: Tensor) -> Tensor:
    """[n + 1] int64, 0 and the running sums of ``counts`` [n]."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts
