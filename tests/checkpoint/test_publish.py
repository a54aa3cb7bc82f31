"""--push_to_hub, against a stand-in of the hub's client."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dschat.checkpoint import publish as publishing
from dschat.checkpoint.publish import check_publishing, publish
from dschat.errors import UserError
from dschat.settings.supervised import SupervisedConfig

TOKEN = "hf_not_a_token"
MODEL = ["README.md", "adapter/adapter_config.json", "config.json", "model.safetensors"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was asked of the hub; `failure`, if set, is raised by the upload."""
    asked = SimpleNamespace(created=None, uploaded=None, failure=None)

    class StandIn:
        def create_repo(self, name: str, **options: Any) -> Any:
            asked.created = (name, options)
            return SimpleNamespace(repo_id=name if "/" in name else f"me/{name}")

        def upload_folder(self, **options: Any) -> str:
            if asked.failure is not None:
                raise asked.failure
            asked.uploaded = options
            return "https://hub.example/commit"

    monkeypatch.setattr(publishing, "HfApi", StandIn)
    monkeypatch.setattr(publishing, "get_token", lambda: TOKEN)
    monkeypatch.setattr(publishing.constants, "HF_HUB_OFFLINE", False)
    return asked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in the output folder of its run, among other files."""
    output = tmp_path / "my-run"
    others = ["metrics.jsonl", "data/rows.safetensors", "resumable-1/model.safetensors"]
    for name in [*MODEL, *others, "reward_comparison.json", "bad_steps/step-1.json"]:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("x")
    return output


def config(folder: Path, **flags: Any) -> SupervisedConfig:
    return SupervisedConfig(output_dir=str(folder), push_to_hub=True, **flags)


def test_the_model_alone_is_uploaded(hub: Any, folder: Path, capsys: Any) -> None:
    publish(config(folder), folder)
    assert hub.created == ("my-run", {"private": None, "exist_ok": True})
    assert hub.uploaded["repo_id"] == "me/my-run"
    assert hub.uploaded["folder_path"] == folder
    assert hub.uploaded["allow_patterns"] == MODEL
    assert "token" not in hub.uploaded
    assert TOKEN not in "".join(capsys.readouterr())


def test_the_repository_is_the_one_that_was_named(hub: Any, folder: Path) -> None:
    publish(config(folder, hub_model_id="org/policy", hub_private_repo=True), folder)
    assert hub.created == ("org/policy", {"private": True, "exist_ok": True})


def test_nothing_is_sent_unasked(hub: Any, folder: Path) -> None:
    publish(SupervisedConfig(output_dir=str(folder)), folder)
    assert hub.created is None


def test_a_failure_names_the_command_and_not_the_token(
    hub: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.failure = ConnectionError(f"no route, authorization: {TOKEN}\nmore")
    publish(config(folder), folder)
    said = "".join(capsys.readouterr())
    assert "WARNING" in said
    assert f"hf upload my-run {folder} . --include README.md" in said
    assert TOKEN not in said


def test_an_upload_that_cannot_be_is_refused_at_the_start(
    hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_publishing(config(folder))
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    with pytest.raises(UserError, match="HF_TOKEN"):
        check_publishing(config(folder))
    monkeypatch.setattr(publishing.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        check_publishing(config(folder))
    flags = {"model_name_or_path": "m", "output_dir": "o"}
    with pytest.raises(UserError, match="belongs to --push_to_hub"):
        SupervisedConfig(**flags, hub_model_id="a/b").validate()
