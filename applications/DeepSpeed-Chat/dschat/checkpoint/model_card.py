"""README.md of a saved model: what it was trained from and how, and the run's last figures.

The same run gives the same text, interrupted or not: there are no dates and no times in it. Nor is
there anything of this machine: of a local path only the last part is named.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from dschat.checkpoint.resume import NO_RESULT
from dschat.runtime.run_files import MetricsLog, library_versions, plain_settings

MARK = "<!-- written by dschat -->"
"""In every card of ours: another README.md is never replaced."""
DATA = ("data_path", "dataset", "sft_only_data_path", "unsupervised_dataset_name")
BASES = {
    "critic": ("critic_model_name_or_path", "rm_name"),
    "": ("model_name_or_path", "actor_model_name_or_path", "model"),
}
PENALTIES = ("regularizer", "transport", "kl_type")
COEFFICIENTS = ("kl_ctl", "gamma")


@dataclass(frozen=True)
class Extras:
    """What a model folder holds beside model and tokenizer.

    Attributes:
        method: how it was trained, in words. settings: the run's, resolved. log: of its metrics.
        result: the last evaluation, where it is in no row of the log yet.
        save_adapter: whether LoRA adapters are saved by themselves as well.
    """

    method: str
    settings: Any
    log: MetricsLog
    result: Mapping[str, float] | None = None
    save_adapter: bool = False

    def card(self, role: str = "") -> str:
        """The text of README.md.

        Args:
            role: of the model in the run, such as "actor"; empty: there is one model only.
        """
        values = plain_settings(self.settings)
        values = {name: shown(v) for name, v in values.items() if name not in NO_RESULT}
        base = _first(values, BASES["critic" if role == "critic" else ""])
        data = [name for key in DATA for name in _list(values.get(key))]
        scores = role == "critic" or self.method == "reward modelling"
        about = ModelCardData(
            base_model=base if is_hub_name(base) else None,
            datasets=[name for name in data if is_hub_name(name)] or None,
            library_name="transformers",
            pipeline_tag="text-classification" if scores else "text-generation",
            tags=["dschat", *(["trl"] if role == "" else [])],
        )
        facts = {
            "script": Path(sys.argv[0]).name,
            "method": self.method,
            "model": role or "the trained model",
            "base model": base,
            "data": ", ".join(data),
            "penalty": _first(values, PENALTIES),
            "coefficient": _first(values, COEFFICIENTS),
        }
        parts = [
            f"---\n{about.to_yaml()}\n---\n\n{MARK}\n\n# {role or 'Model'}: {self.method}",
            _table("", {name: value for name, value in facts.items() if value not in (None, "")}),
            _table("Last figures", last_figures(self.log, self.result or {})),
            "## Settings\n\n```yaml\n" + yaml.safe_dump(values, sort_keys=False) + "```",
            _table("Versions", library_versions()),
        ]
        return str(ModelCard("\n\n".join(part for part in parts if part) + "\n"))


def shown(value: Any) -> Any:
    """A setting's value without the folders of this machine."""
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, str) and (os.sep in value or "/" in value) and not is_hub_name(value):
        return Path(value.rstrip("/")).name
    return value


def is_hub_name(value: Any) -> bool:
    """Whether it is OWNER/NAME, and no local file or folder."""
    if not isinstance(value, str) or value.count("/") != 1 or Path(value).exists():
        return False
    return all(part and not part.startswith((".", "~")) for part in value.split("/"))


def last_figures(log: MetricsLog, result: Mapping[str, float]) -> dict[str, Any]:
    """The numbers of the last step and of the last evaluation, without times."""
    step: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    for row in log.rows():
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float))}
        numbers = {k: v for k, v in numbers.items() if k != "seconds" and "time/" not in k}
        found = {k: v for k, v in numbers.items() if k.startswith("eval")}
        rest = {k: v for k, v in numbers.items() if k not in found}
        evaluation = found or evaluation
        if rest.keys() - {"step", "micro_step", "iteration"}:
            step = rest
    return {name: f"{value:.6g}" for name, value in {**step, **evaluation, **result}.items()}


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _table(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([*([f"## {title}", ""] if title else []), "| | |", "|---|---|", *lines])
