"""Which table of embeddings a penalty gets."""

from types import SimpleNamespace

import pytest
import torch
from dschat.errors import UserError
from dschat.scoring.token_table import token_table
from dschat.settings.regularizers.ground import GroundSettings
from safetensors.torch import save_file

TOKENS, ROWS = 40, 48


class Tokenizer:
    all_special_ids = (0, 3)

    def __len__(self):
        return TOKENS

    def get_vocab(self):
        return {str(i): i for i in range(TOKENS)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = torch.nn.Embedding(ROWS, 4), torch.nn.Linear(4, ROWS, bias=False)
    return SimpleNamespace(
        get_input_embeddings=lambda: layers[0], get_output_embeddings=lambda: layers[1]
    )


def table(model, **settings):
    return token_table(GroundSettings(**settings), model, Tokenizer(), torch.device("cpu"), seed=1)


def test_input_output_and_file(model, tmp_path):
    assert torch.equal(table(model), model.get_input_embeddings().weight)
    assert torch.equal(table(model, embedding="output"), model.get_output_embeddings().weight)
    mine = torch.randn(TOKENS, 7)
    save_file({"anything": mine}, tmp_path / "mine.safetensors")
    found = table(model, embedding=str(tmp_path / "mine.safetensors"))
    assert torch.equal(found[:TOKENS], mine)
    assert found.shape == (ROWS, 7)
    assert not found[TOKENS:].any()


def test_the_permuted_control_keeps_special_tokens(model):
    found, own = table(model, permute_embeddings=5), model.get_input_embeddings().weight
    assert not torch.equal(found, own)
    assert torch.equal(found[[0, 3]], own[[0, 3]])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(TOKENS - 1, 2)}, "40 of the tokenizer, at most 48"),
        ({"a": torch.zeros(ROWS + 1, 2)}, "40 of the tokenizer, at most 48"),
        ({"a": torch.zeros(TOKENS, 2, dtype=torch.int64)}, "int64; expected a floating-point"),
        ({"a": torch.zeros(TOKENS, 2), "b": torch.zeros(1)}, "2 tensors; expected one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tensors, message, model, tmp_path):
    save_file(tensors, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match=f"--embedding .*{message}"):
        table(model, embedding=str(tmp_path / "t.safetensors"))


def test_a_file_that_is_none_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        table(model, embedding=str(tmp_path / "absent.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"not a table")
    with pytest.raises(UserError, match="cannot be read"):
        table(model, embedding=str(tmp_path / "torn.safetensors"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cost_power": 2.5}, "--cost_power 2.5: expected a number above 0, at most 2"),
        ({"cost_saturation": 0.0}, "--cost_saturation 0.0"),
        ({"cost_components": 3}, "--cost_components belongs to --cost_type cos_centred"),
        ({"embedding": "middle"}, "--embedding middle: expected input, output"),
        ({"permute_embeddings": -1}, "--permute_embeddings -1"),
    ],
)
def test_flags_out_of_range_or_without_effect_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        GroundSettings(**settings).validate()
