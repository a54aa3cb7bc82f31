"""Macro actions by parsing in the trainer, with a parser of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.online import run as online
from dschat.scoring.parsing.segments import token_pieces
from dschat.scoring.parsing.trees import Node, flat_tree
from online_fixtures import make_trainer, online_settings, score, with_targets

CUTOFF = 3


def halves(texts: Sequence[str]) -> list[list[Node]]:
    """Per text one tree: the first half of the characters, and the second, word by word."""
    trees = []
    for text in texts:
        middle = len(text) // 2
        parts = [flat_tree(text, 0, middle), flat_tree(text, middle)]
        trees.append([Node("S", tuple(p for p in parts if p.children))])
    return trees


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path, monkeypatch: Any) -> Any:
    asked: list[str] = []

    def open_parser(name: str) -> Any:
        asked.append(name)
        return halves

    monkeypatch.setattr(online, "open_parser", open_parser)
    flags = {"termination_condition": "parsing", "parser_cutoff": CUTOFF}
    return lambda **changes: online_settings(
        tmp_path, tiny_model_dir, tiny_reward_dir, **{**flags, **changes}
    )


def test_tokens_of_a_constituent_share_advantage_and_return(settings: Any) -> None:
    trainer = make_trainer(settings())
    experiences, _ = score(trainer, trainer.sample(trainer.prompts[:8]))
    sizes = set()
    for e in with_targets(trainer, experiences):
        r = e.rollout
        for ids, advantages, returns, mask in zip(
            r.actions, e.advantages, e.returns, r.response_mask, strict=True
        ):
            ids = ids[mask].tolist()
            (expected,) = trainer.targets.macro_actions.segment([ids])
            pieces = token_pieces(trainer.tokenizer, ids)
            assert sum(expected) == len(ids) == len(pieces)
            for targets in (advantages, returns):
                runs = torch.unique_consecutive(targets[mask], return_counts=True)[1].tolist()
                assert runs == expected
            sizes |= set(expected)
    assert len(sizes) > 1


def test_training_runs_and_depends_on_the_grouping(settings: Any) -> None:
    def run(**changes: Any) -> dict[str, float]:
        trainer = make_trainer(settings(**changes))
        metrics = trainer.run_iteration(trainer.prompts[:8])
        return {k: v for k, v in metrics.items() if not k.startswith("time/")}

    first = run()
    assert run() == first
    one_token_each = run(termination_condition="fixed", parser_cutoff=...)
    assert first["reward"] == one_token_each["reward"]
    assert first["value_loss"] != pytest.approx(one_token_each["value_loss"], rel=1e-6)
