"""The tokens a batch is cut to, and the distributions over them, against plain torch."""

import pytest
import torch
from dschat.regularization.transport.support import (
    bin_of,
    binned_distribution,
    top_k_tokens,
    union_of_tokens,
)


@pytest.mark.parametrize("vocabulary", [1, 7, 64, 1001])
@pytest.mark.parametrize("top_k", [1, 3, 16, 1001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_likeliest_tokens_have_the_largest_logits(vocabulary, top_k, dtype, rng):
    """In bf16 many logits are equal: the tokens may then differ from torch's, not the logits."""
    logits = torch.randn(9, vocabulary, generator=rng).to(dtype)
    found = top_k_tokens(logits, top_k)
    k = min(top_k, vocabulary)
    assert found.shape == (9, k)
    assert all(len(row.unique()) == k for row in found)
    expected = logits.sort(1, descending=True).values[:, :k]
    assert torch.equal(logits.gather(1, found).sort(1, descending=True).values, expected)


def test_likeliest_tokens_where_nearly_all_are_impossible():
    logits = torch.full((2, 500), -torch.inf)
    logits[0, [3, 499]], logits[1, 250] = 0.0, 1.0
    found = top_k_tokens(logits, 2)
    assert set(found[0].tolist()) == {3, 499}
    assert 250 in found[1].tolist()


def test_union_leaves_out_and_keeps_what_it_is_told_to(rng):
    logits = [torch.randn(3, 40, generator=rng) for _ in range(2)]
    given = torch.tensor([[5, 6], [6, 39]])
    likely = {t for each in logits for row in each.topk(4).indices.tolist() for t in row}
    everything = likely | {5, 6, 39}
    assert union_of_tokens(logits, [given], 4, None, None).tolist() == sorted(everything)
    found = union_of_tokens(logits, [given], 4, excluded=6, included=7)
    assert found.tolist() == sorted((everything - {6}) | {7})
    found = union_of_tokens(logits, [given], 4, excluded=6, included=6)
    assert found.tolist() == sorted(everything)
    # An id beyond the logits is kept, for the check of the support to refuse.
    assert 44 in union_of_tokens(logits, [torch.tensor([44])], 4, None, None)
    with pytest.raises(ValueError, match="token id -1"):
        union_of_tokens(logits, [torch.tensor([-1])], 4, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bins_hold_the_probabilities_and_a_tail_far_below_rounding(dtype, rng):
    logits = (3 * torch.randn(6, 300, generator=rng)).to(dtype)
    logits[:, 50:60] -= 40.0
    outside = torch.zeros(300, dtype=torch.bool)
    outside[50:60] = True
    support = (~outside).nonzero().squeeze(1)
    binned = binned_distribution(logits, support)
    exact = logits.double().softmax(1)
    assert binned.dtype == torch.float32
    torch.testing.assert_close(binned[:, :-1].double(), exact[:, support], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(binned[:, -1].double(), exact[:, outside].sum(1), rtol=1e-5, atol=0)
    assert bin_of(torch.tensor([0, 49, 50, 60, 299]), support).tolist() == [0, 49, 290, 50, 289]
