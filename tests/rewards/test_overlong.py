"""The over-long penalty beside TRL's."""

from types import SimpleNamespace

import pytest
from dschat.rewards.overlong import overlong_penalty


@pytest.mark.parametrize(("limit", "buffer"), [(100, 20), (10, 10), (7, 3)])
def test_it_is_trls_soft_overlong_punishment(limit: int, buffer: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    ids = [[0] * n for n in range(1, limit + 1)]
    settings = SimpleNamespace(
        max_answer_seq_len=limit, overlong_buffer_len=buffer, overlong_penalty_factor=1.0
    )
    ours = overlong_penalty(settings)([], [], [{"response_ids": r} for r in ids])
    assert ours == pytest.approx(get_soft_overlong_punishment(limit, buffer)(ids))
    assert ours[-1] == -1.0


def test_the_buffer_is_a_fifth_of_the_limit_unless_given() -> None:
    settings = SimpleNamespace(
        max_answer_seq_len=50, overlong_buffer_len=None, overlong_penalty_factor=2.0
    )
    lengths = [{"response_ids": [0] * n} for n in (40, 45, 50)]
    assert overlong_penalty(settings)([], [], lengths) == [0.0, -1.0, -2.0]
