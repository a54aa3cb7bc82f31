"""The rows of the nearest-token table on disk."""

from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from dschat.regularization.ground.nearest_table import NearestTable, nearest_tokens
from dschat.regularization.ground.table_cache import cache_path


def test_the_file_is_used_and_belongs_to_its_embeddings(tmp_path, rng, monkeypatch):
    embeddings = torch.randn(40, 4, generator=rng)
    built = nearest_tokens(embeddings, 5, cache_dir=tmp_path)
    path = cache_path(embeddings, 5, "L2", tmp_path)
    assert [path] == list(tmp_path.iterdir())

    def refuse(*_):
        raise AssertionError("built again")

    monkeypatch.setattr("dschat.regularization.ground.nearest_table.nearest_of", refuse)
    again = nearest_tokens(embeddings, 5, cache_dir=tmp_path)
    assert torch.equal(again.indices, built.indices)
    assert torch.equal(again.costs, built.costs)
    changed = embeddings.clone()
    changed[3, 2] += 1e-6
    for other in (
        (changed, 5, "L2"),
        (embeddings, 4, "L2"),
        (embeddings, 5, "cos"),
        (embeddings.bfloat16(), 5, "L2"),
    ):
        with pytest.raises(AssertionError, match="built again"):
            nearest_tokens(*other, cache_dir=tmp_path)


def damage_by_cutting(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_by_emptying(path):
    path.write_bytes(b"")


def damage_by_another_key(path):
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "key": np.array("nearest_tokens_of_something_else")})


def damage_by_wild_indices(path):
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "indices": arrays["indices"] + 39})


def damage_by_repeated_tokens(path):
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{**arrays, "tokens": np.zeros_like(arrays["tokens"])})


def damage_by_a_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_cutting,
        damage_by_emptying,
        damage_by_another_key,
        damage_by_wild_indices,
        damage_by_repeated_tokens,
        damage_by_a_flipped_bit,
    ],
)
def test_a_damaged_file_is_built_again(damage, tmp_path, rng):
    embeddings = torch.randn(40, 4, generator=rng)
    built = nearest_tokens(embeddings, 5, cache_dir=tmp_path)
    (path,) = cache_path(embeddings, 5, "L2", tmp_path).iterdir()
    sound = path.read_bytes()
    damage(path)
    again = nearest_tokens(embeddings, 5, cache_dir=tmp_path)
    assert torch.equal(again.indices, built.indices)
    assert path.read_bytes() == sound
    assert [path] == list(path.parent.iterdir())


def test_a_folder_that_cannot_be_written_only_warns(tmp_path, rng):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.warns(UserWarning, match="choose another cache folder"):
        table = nearest_tokens(torch.randn(9, 2, generator=rng), 3, cache_dir=blocked / "tables")
    assert table.costs.shape == (9, 3)


def test_rows_made_by_several_are_all_read(tmp_path, rng):
    """Two runs that share a folder and need different tokens; the third makes none of them."""
    embeddings = torch.randn(200, 4, generator=rng)
    every = torch.arange(200)
    whole = nearest_tokens(embeddings, 5)
    runs = [NearestTable(embeddings, 5, cache_dir=tmp_path) for _ in range(2)]
    runs[0].rows(every[:80])
    runs[1].rows(every[60:120])
    runs[0].rows(every[110:111])  # few: not worth a file
    third = NearestTable(embeddings, 5, cache_dir=tmp_path)
    assert len(third._found.costs) == 120
    found = third.rows(every[:120])
    assert all(torch.equal(f, w[:120]) for f, w in zip(found, whole, strict=True))


def test_files_stay_few(tmp_path, rng):
    embeddings = torch.randn(400, 3, generator=rng)
    table = NearestTable(embeddings, 2, cache_dir=tmp_path)
    for i in range(400):
        table.rows(torch.tensor([i]))
    assert len(list(cache_path(embeddings, 2, "L2", tmp_path).iterdir())) < 35


def test_only_a_process_that_may_writes(tmp_path, rng):
    embeddings = torch.randn(20, 3, generator=rng)
    NearestTable(embeddings, 2, cache_dir=tmp_path, writes=False).whole()
    assert not list(tmp_path.iterdir())
    NearestTable(embeddings, 2, cache_dir=tmp_path).whole()
    assert NearestTable(embeddings, 2, cache_dir=tmp_path, writes=False).is_whole


def test_new_rows_show_how_far_they_are(rng):
    embeddings, shown = torch.randn(20, 3, generator=rng), []

    class Bar(AbstractContextManager):
        def __init__(self, total):
            shown.append(total)

        def update(self, steps):
            shown.append(steps)

        def __exit__(self, *_):
            shown.append("end")

    table = NearestTable(embeddings, 2, block_size=4, progress=Bar)
    table.rows(torch.arange(10))
    table.rows(torch.arange(9))  # nothing new
    assert shown == [10, 4, 4, 2, "end"]
