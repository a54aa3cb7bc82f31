"""What decides the results of a run, so that results of different settings are never mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dschat.data import clock
from dschat.data.prompts import PromptExample
from dschat.models.loading import DTYPE_NAMES
from dschat.settings.inference import CodeInferenceConfig, InferenceConfig, InferenceFlags

SAMPLED_BYTES = 1 << 16
MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def settings_of(
    config: InferenceConfig, prompts: Sequence[PromptExample], end_token: str, dtype: Any
) -> dict[str, Any]:
    """All that decides responses and rewards, up to the rounding of batches: JSON values.

    Args:
        end_token: that ends a response. dtype: of all models.
    """
    settings: dict[str, Any] = {
        "reward_model": config.reward_model,
        "reward_model_files": model_digest(str(config.reward_model)),
        **_settings_of_data(config, prompts),
        "dtype": DTYPE_NAMES[dtype],
    }
    if config.ref_scores:
        return settings
    settings |= _settings_of_sampling(config, end_token)
    settings["reference_model"] = config.reference_model
    if config.reference_model is not None:
        settings["reference_model_files"] = model_digest(config.reference_model)
    return settings


def code_settings_of(
    config: CodeInferenceConfig,
    problems: Sequence[PromptExample],
    end_token: str | None,
    dtype: Any,
    sandbox: str,
) -> dict[str, Any]:
    """The same for programs that are run; `sandbox` is the one that was chosen."""
    settings: dict[str, Any] = {
        **_settings_of_data(config, problems),
        "sandbox": sandbox,
        "test_seconds": config.test_seconds,
        "program_seconds": config.program_seconds,
        "memory_mb": config.memory_mb,
    }
    if config.ref_scores:
        return settings
    return settings | {
        "dtype": DTYPE_NAMES[dtype],
        **_settings_of_sampling(config, str(end_token)),
        "num_responses": config.responses_per_problem,
        "top_k": config.sampled_tokens,
    }


def _settings_of_data(config: InferenceFlags, prompts: Sequence[PromptExample]) -> dict[str, Any]:
    digest = hashlib.sha256(b"[")
    for i, p in enumerate(prompts):  # one at a time: tests may be long
        digest.update(b", " * (i > 0) + json.dumps([p.ids, p.text, p.example]).encode())
    digest.update(b"]")
    return {
        "dataset": config.data_name,
        "prompts": len(prompts),
        "prompts_digest": digest.hexdigest()[:16],
        **({"clock": clock.frozen()} if clock.was_asked() else {}),
    }


def _settings_of_sampling(config: InferenceFlags, end_token: str) -> dict[str, Any]:
    return {
        "model": config.model,
        "model_files": model_digest(config.policy_path),
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "end_token": end_token,
        # Only where they are given, so that earlier files can be resumed.
        **{
            name: getattr(config, name)
            for name in ("stop_token", "stop_text", "include_stop_text")
            if getattr(config, name)
        },
    }


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
