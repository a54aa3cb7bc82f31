# shellcheck shell=bash
# Sourced by the recipes in scripts/*/: environment, GPUs, SMOKE, DRY_RUN, and how a step is run.
#
#   GPUS=0,1,2,3    the GPUs to use (default: all there are; none: the CPU)
#   OUT=FOLDER      where models and results go
#   SMOKE=1         the same commands on tiny local data and models: CPU, no network
#   DRY_RUN=1       print the commands and run nothing
#   VENV=none       use the Python that is active (conda, a container) and make no .venv
#   KEEP=1          take finished steps as they are, also where they were run with other settings
#   CHECKPOINT_STEPS=N, MASTER_PORT=N
#
# Every variable of a recipe is set as VAR="${VAR:-default}": the environment comes first. Arguments
# of a script are passed to the Python script. Relative paths start at the root of the repository.
set -euo pipefail
shopt -s inherit_errexit
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SMOKE="${SMOKE:-0}"
DRY_RUN="${DRY_RUN:-0}"
if [ "${VENV:-}" = none ] || [ "$DRY_RUN" = 1 ]; then
  cd "$ROOT"
  export TOKENIZERS_PARALLELISM=false
else
  # shellcheck source=environment.sh
  source "$ROOT/scripts/environment.sh"
fi

fail() {
  echo "error: $*" >&2
  exit 1
}

# smoke VAR=VALUE...: what a smoke run sets, unless the environment has set it.
smoke() {
  local pair name
  for pair in "$@"; do
    name="${pair%%=*}"
    [ -n "${!name:-}" ] || printf -v "$name" '%s' "${pair#*=}"
  done
}

if [ "$SMOKE" = 1 ]; then
  smoke GPUS=none CHECKPOINT_STEPS=1
  export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" DS_ACCELERATOR=cpu
  # Threads that wait asleep: spinning ones make a small model crawl where a core is shared.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
fi

visible_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    echo "$CUDA_VISIBLE_DEVICES"
  else
    { nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true; } | paste -sd, -
  fi
}
[ "${GPUS:-}" != none ] || export CUDA_VISIBLE_DEVICES=""
GPUS="${GPUS:-$(visible_gpus)}"
GPUS="${GPUS:-none}"
MASTER_PORT="${MASTER_PORT:-1234}" # both READMEs
if [ "$GPUS" = none ]; then
  RANKS=1
  LAUNCH=(python)
else
  RANKS="$(tr ',' '\n' <<<"$GPUS" | wc -l)"
  LAUNCH=(deepspeed -i "localhost:$GPUS" --master_port "$MASTER_PORT")
  # The launcher takes the numbers of -i as they are.
  unset CUDA_VISIBLE_DEVICES
fi

# set_folders DEFAULT: OUT, absolute.
set_folders() {
  [ "$SMOKE" != 1 ] || smoke OUT="$ROOT/runs/smoke/$RECIPE"
  OUT="$(realpath -m "${OUT:-$1}")"
}

# smoke_data KIND: the tiny data and models of a smoke run, in $OUT/smoke, once.
smoke_data() {
  [ "$DRY_RUN" = 1 ] || [ -e "$OUT/smoke/done" ] || {
    echo "== smoke: tiny data and models in $OUT/smoke"
    PYTHONPATH="$ROOT/tests" python "$ROOT/scripts/smoke.py" data "$1" "$OUT/smoke"
    touch "$OUT/smoke/done"
  }
}

# accumulation GLOBAL PER_DEVICE: the micro-steps that make a global batch on these ranks, so that
# a recipe trains alike on any number of GPUs.
accumulation() {
  local at_once=$(($2 * RANKS))
  [ $(($1 % at_once)) = 0 ] || fail "a batch of $1 is no multiple of $2 rows on each of $RANKS" \
    "ranks. Choose another *_PER_DEVICE_BATCH_SIZE, or other GPUS."
  echo $(($1 / at_once))
}

# last FOLDER PREFIX: FOLDER/PREFIXn with the highest n.
last() {
  local found
  found="$({ find "$1" -maxdepth 1 -name "$2[0-9]*" 2>/dev/null || true; } | sort -V | tail -n 1)"
  if [ -z "$found" ]; then
    [ "$DRY_RUN" = 1 ] || fail "$1 holds no ${2}N. Run the steps before this one first."
    found="$1/${2}1"
  fi
  echo "$found"
}

# step MARKER COMMAND...: run a command, unless the file MARKER says that it is done.
step() {
  local marker="$1" line what
  shift
  line="$(printf '%q ' "$@")"
  line="${line//\\,/,}" # %q escapes commas for nothing
  if [ "$DRY_RUN" = 1 ]; then
    printf '%s\n' "$line"
    return
  fi
  what="${line#* "$ROOT"/}" # the launcher does not matter to what is done
  if already "$marker" "$what"; then return; fi
  echo "== $line"
  mkdir -p "$(dirname "$marker")"
  "$@"
  [ "$(basename "$marker")" != recipe.done ] || finished "$(dirname "$marker")" ||
    fail "$(dirname "$marker") is not finished. The same command resumes it."
  printf '%s\n' "$what" >"$marker"
}

# already MARKER LINE: whether this command has left MARKER. That of another one is refused.
already() {
  [ -e "$1" ] || return 1
  [ "$(cat "$1")" = "$2" ] || [ "${KEEP:-0}" = 1 ] || fail "$1 is of another command.
  then: $(cat "$1")
  now:  $2
Choose another folder with OUT=FOLDER, remove what that command has left, or take it as it is with
KEEP=1."
  echo "== already there: ${1%.recipe}"
}

# finished FOLDER: whether a model in it is newer than all resumable checkpoints. A run that SIGTERM
# has stopped leaves with exit code 0 as well.
finished() {
  local path newest=""
  for path in "$1"/step[-_]* "$1"/*.safetensors "$1"/finished.json; do
    [ -e "$path" ] || continue
    if [ -z "$newest" ] || [ "$path" -nt "$newest" ]; then newest="$path"; fi
  done
  [ -n "$newest" ] || return 1
  for path in "$1"/resumable-*; do
    if [ "$path" -nt "$newest" ]; then return 1; fi
  done
}

# train FOLDER SCRIPT FLAG...: a training script that writes to FOLDER and resumes there.
train() {
  local folder="$1" script="$2"
  shift 2
  step "$folder/recipe.done" "${LAUNCH[@]}" "$ROOT/applications/$script" "$@" \
    --checkpoint_steps "${CHECKPOINT_STEPS:-$DEFAULT_CHECKPOINT_STEPS}" \
    --resume_from_checkpoint auto
}
