"""What decides the results of a run, so that results of different settings are never mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dschat.data.prompts import PromptExample
from dschat.inference.config import InferenceConfig
from dschat.models.loading import DTYPE_NAMES

SAMPLED_BYTES = 1 << 16
MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def settings_of(
    config: InferenceConfig, prompts: Sequence[PromptExample], end_token: str, dtype: Any
) -> dict[str, Any]:
    """All that decides responses and rewards, up to the rounding of batches: JSON values.

    Args:
        end_token: that ends a response. dtype: of all models.
    """
    examples = json.dumps([[p.ids, p.text, p.example] for p in prompts])
    settings: dict[str, Any] = {
        "reward_model": config.reward_model,
        "reward_model_files": model_digest(str(config.reward_model)),
        "dataset": config.data_name,
        "prompts": len(prompts),
        "prompts_digest": hashlib.sha256(examples.encode()).hexdigest()[:16],
        "dtype": DTYPE_NAMES[dtype],
    }
    if config.ref_scores:
        return settings
    settings |= {
        "model": config.model,
        "model_files": model_digest(config.policy_path),
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "end_token": end_token,
        "reference_model": config.reference_model,
    }
    if config.reference_model is not None:
        settings["reference_model_files"] = model_digest(config.reference_model)
    return settings


def model_digest(path: str) -> str | None:
    """A digest of a model folder's files: names, sizes, and bytes of their beginning, middle, end.

    Weights of many gigabytes are not read whole: training changes them everywhere. None for a name
    of the hub.
    """
    if not Path(path).is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(path).iterdir() if p.suffix in MODEL_SUFFIXES):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with open(file, "rb") as stream:
            for start in (0, size // 2, max(0, size - SAMPLED_BYTES)):
                stream.seek(start)
                digest.update(stream.read(SAMPLED_BYTES))
    return digest.hexdigest()[:16]
