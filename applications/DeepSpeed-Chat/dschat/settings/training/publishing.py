"""The flags of what a run leaves beside its merged model, and of publishing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.flags import TRACKING, Settings, flag, require


@dataclass
class PublishingFlags(Settings):
    """Adapters by themselves, and the Hugging Face hub, under the names of transformers."""

    save_adapter: bool = flag(
        False,
        "Save the LoRA adapters by themselves too, in the folder adapter of every model folder, "
        "as PEFT loads them. Needs adapters as all that is trained.",
        group=TRACKING,
    )
    push_to_hub: bool = flag(
        False,
        "At the end, upload the trained model to the Hugging Face hub, with the token of the "
        "environment (HF_TOKEN, or hf auth login).",
    )
    hub_model_id: str | None = flag(
        None, "Repository to upload to; unset: the output folder's name, in your own account."
    )
    hub_private_repo: bool = flag(False, "Make that repository private, where it is new.")

    def validate_publishing(self) -> None:
        """Refuse what would have no effect, and adapters that are not all that changes.

        Raises:
            UserError: says which flag.
        """
        settings: Any = self  # of a script, with the flags of its adapters
        rank = "actor_lora_dim" if hasattr(self, "actor_lora_dim") else "lora_dim"
        missing = rank if getattr(settings, rank) == 0 else "only_optimize_lora"
        require(
            not self.save_adapter or (getattr(settings, rank) and settings.only_optimize_lora),
            f"{self.flag('save_adapter')}: the adapters by themselves are the trained model only "
            f"where nothing else is trained. Add {self.flag(missing)}.",
        )
        require(
            not (self.save_adapter and settings.add_eot_token),
            f"{self.flag('save_adapter')} with {self.flag('add_eot_token')}: the new token's rows "
            "are trained as well and are no adapter. Remove one of the two.",
        )
        for name in ("hub_model_id", "hub_private_repo"):
            require(
                self.push_to_hub or not getattr(self, name),
                f"{self.flag(name)} belongs to {self.flag('push_to_hub')}. Remove it, or add that "
                "flag.",
            )
