"""The table of embeddings between which a penalty measures distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import pad

from dschat.data.tables import sha256_of
from dschat.errors import UserError
from dschat.models.output_layer import tokens_of
from dschat.regularization.ground.permutation import permuted
from dschat.settings.flags import Settings
from dschat.settings.regularizers.ground import TABLES, GroundSettings


def token_table(
    settings: GroundSettings, model: Any, tokenizer: Any, device: torch.device, seed: int
) -> torch.Tensor:
    """The embeddings [V, D] that the settings name, permuted and perturbed as they ask for.

    Args:
        model: the reference.
        seed: of the noise of `--gaussian_perturb`.

    Raises:
        UserError: there is no such table, or its rows are not this tokenizer's tokens.
    """
    table = model.get_input_embeddings().weight.detach()
    if settings.embedding == "output":
        layer = model.get_output_embeddings()
        if layer is None:
            raise UserError(f"{settings.flag('embedding')} output: the model has no output layer.")
        table = layer.weight.detach()
    elif settings.embedding not in TABLES:
        table = _from_file(settings, tokens_of(tokenizer), len(table))
    table = table.to(device)
    if settings.permute_embeddings is not None:
        table = permuted(table, settings.permute_embeddings, tokenizer.all_special_ids)
    if settings.gaussian_perturb:
        share = settings.gaussian_perturb
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(table.shape, generator=generator).to(table)
        table = (1 - share) * table + share * noise
    return table


def file_checksum(settings: Settings) -> str | None:
    """SHA-256 of the table's file; None where the penalty takes its table from the model.

    Raises:
        UserError: the file cannot be read.
    """
    if not isinstance(settings, GroundSettings) or settings.embedding in TABLES:
        return None
    try:
        return sha256_of(Path(settings.embedding).expanduser())
    except OSError as error:
        given = f"{settings.flag('embedding')} {settings.embedding}"
        raise UserError(f"{given} cannot be read: {error}") from error


def _from_file(settings: GroundSettings, tokens: int, rows: int) -> torch.Tensor:
    """The file's only tensor, with rows of zeros for the padding of the model's vocabulary."""
    path = Path(settings.embedding).expanduser()
    given = f"{settings.flag('embedding')} {settings.embedding}"
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            found = file.get_tensor(names[0]) if len(names) == 1 else None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{given} cannot be read: {error}") from error
    if found is None:
        raise UserError(f"{given} has {len(names)} tensors; expected one, [tokens, dimensions].")
    tokens = min(tokens, rows)
    fits = found.dim() == 2 and found.is_floating_point() and tokens <= len(found) <= rows
    if not fits:
        raise UserError(
            f"{given} holds {tuple(found.shape)} of {found.dtype}; expected a floating-point table "
            f"with a row for each token id: {tokens} of the tokenizer, at most {rows} of the model."
        )
    return pad(found, (0, 0, 0, rows - len(found)))
