"""Uploading a trained model to the Hugging Face hub (`--push_to_hub`)."""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token

from dschat.runtime.distributed import is_main, log_main
from dschat.settings.command_line import require
from dschat.settings.training.publishing import PublishingFlags

MODEL_FILES = (
    "README.md",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "adapter/adapter_*",
)
"""What belongs to a model, in a folder that may hold data and checkpoints of its run as well."""


def check_publishing(config: PublishingFlags) -> None:
    """Refuse, before hours of training, an upload that cannot come about.

    Raises:
        UserError: there is no token, or the hub is switched off.
    """
    if not config.push_to_hub:
        return
    flag = config.flag("push_to_hub")
    require(
        not constants.HF_HUB_OFFLINE,
        f"{flag} and HF_HUB_OFFLINE=1 contradict each other. Unset one of them.",
    )
    require(
        get_token() is not None,
        f"{flag} needs a token that may write: set HF_TOKEN in the environment, or run "
        "hf auth login.",
    )


def publish(config: PublishingFlags, folder: Path) -> None:
    """Upload the model in `folder`, where it is asked for; rank 0 does it.

    A failure is a warning that names the command to upload by hand: the run's result stands.

    Args:
        folder: the model's; other files in it are not uploaded.
    """
    if not config.push_to_hub or not is_main():
        return
    assert hasattr(config, "output_dir")
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    files = sorted({str(p.relative_to(folder)) for g in MODEL_FILES for p in folder.glob(g)})
    try:
        api = HfApi()
        private = config.hub_private_repo or None  # None: as the account's settings say
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        address = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=files,
            commit_message="Model trained with dschat",
        )
        log_main(f"uploaded {folder} to {repository}: {address}")
    except Exception as error:  # of many kinds: the network, the hub, its client
        said = (str(error).strip() or repr(error)).splitlines()[0]
        token = get_token()
        said = said.replace(token, "...") if token else said
        command = ["hf", "upload", name, str(folder), ".", "--include", *files]
        log_main(
            f"WARNING: {folder} was not uploaded ({said}). The model is saved; upload it with: "
            f"{shlex.join(command)}"
        )
