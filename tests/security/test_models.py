"""Loading a model never runs code that comes with it."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from dschat.checkpoint.engine_checkpoint import checked_files, load_values
from dschat.data.text import conversation_text
from dschat.errors import UserError
from dschat.models.convert_reward_model import convert
from dschat.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from hostile_files import (
    MODELS,
    Touch,
    code_of_an_unknown_type,
    code_of_the_tokenizer,
    hostile_old_weights,
    hostile_weights,
    touching_code,
)

Make = Callable[[Path, Path], None]


def load_all(folder: Path) -> None:
    """As a policy, as a reward model and as the start of one; what cannot be loaded is refused."""
    tokenizer = None
    with contextlib.suppress(UserError):
        tokenizer = load_tokenizer(str(folder))
    tokenizer = tokenizer or load_tokenizer(str(folder.with_name("tokenizer")))
    for load in (load_causal_lm, load_reward_model):
        with contextlib.suppress(UserError):
            load(str(folder), tokenizer, torch.float32)
    with contextlib.suppress(UserError):
        load_reward_model(str(folder), tokenizer, torch.float32, head_may_be_new=True)


@pytest.fixture
def folders(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model's folder, with its tokenizer alone in another one beside it."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    shutil.copytree(tiny_model_dir, tmp_path / "tokenizer")
    return tmp_path / "model"


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_hostile_model(folders: Path, tmp_path: Path, make: Make) -> None:
    mark = tmp_path / "mark"
    make(folders, mark)
    load_all(folders)
    assert not mark.exists()


@pytest.mark.parametrize("make", [code_of_an_unknown_type, code_of_the_tokenizer])
def test_code_that_is_needed_is_refused_in_plain_words(
    folders: Path, tmp_path: Path, make: Make
) -> None:
    make(folders, tmp_path / "mark")
    with pytest.raises(UserError) as caught:
        load_causal_lm(str(folders), load_tokenizer(str(folders)), torch.float32)
    assert "brings code of its own" in str(caught.value)
    assert "never run" in str(caught.value)
    assert "trust_remote_code" not in str(caught.value)  # there is no such flag


@pytest.mark.parametrize("make", [hostile_weights, hostile_old_weights])
def test_hostile_weights_are_named(folders: Path, tmp_path: Path, make: Make) -> None:
    make(folders, tmp_path / "mark")
    tokenizer = load_tokenizer(str(folders))
    with pytest.raises(UserError) as caught:
        load_causal_lm(str(folders), tokenizer, torch.float32)
    assert f"--model_name_or_path {folders}: its weights are a pickle" in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_the_converter_of_old_reward_models(folders: Path, tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "mark"
    weights = {"v_head.weight": torch.zeros(1, 32), "rwtransformer.x": Touch(mark)}
    file = folders / "pytorch_model.bin"
    if old:
        file.write_bytes(pickle.dumps(weights))
    else:
        torch.save(weights, file)
    for name in ("model.safetensors", "mark"):
        (folders / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="cannot be read as a file of weights"):
        convert(folders, tmp_path / "new")
    tokenizer: Any = load_tokenizer(str(folders))
    with pytest.raises(UserError):
        load_reward_model(str(folders), tokenizer, torch.float32)
    assert not mark.exists()
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    """What --resume_from_checkpoint reads of an engine."""
    mark, path = tmp_path / "mark", tmp_path / "state.pt"
    torch.save({"module": Touch(mark)}, path)
    for load in (checked_files().load, load_values):
        with pytest.raises(UserError, match="holds more than weights"):
            load(str(path))
    assert not mark.exists()


def test_a_hostile_chat_template(folders: Path, tmp_path: Path) -> None:
    """A template is a program too: it gets no way to the interpreter."""
    mark = tmp_path / "mark"
    template = f"{{{{ cycler.__init__.__globals__.os.mkdir('{mark}') }}}}"
    assert jinja2.Template(template).render() == "None"
    mark.rmdir()
    (folders / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(str(folders))
    assert tokenizer.chat_template == template
    with pytest.raises(UserError, match="chat template"):
        conversation_text([{"role": "user", "content": "Hello"}], tokenizer)
    assert not mark.exists()


def test_the_files_are_hostile(tmp_path: Path) -> None:
    """Whoever runs them finds the mark: the tests above would see it."""
    torch.save({"x": Touch(tmp_path / "one")}, tmp_path / "file.pt")
    torch.load(tmp_path / "file.pt", weights_only=False)
    assert (tmp_path / "one").exists()
    exec(touching_code(tmp_path / "two"), {})
    assert (tmp_path / "two").exists()
