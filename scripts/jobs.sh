# shellcheck shell=bash
# Sourced by the quickstarts after environment.sh, with OUT set: the folder, and commands that run
# beside each other. A command that has finished is skipped when the quickstart is started again;
# FRESH=1 starts over.
export HF_HUB_OFFLINE=1
# Threads that wait asleep: spinning ones make a small model crawl where a core is shared.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
[ "${FRESH:-0}" = 1 ] && rm -rf "$OUT"
mkdir -p "$OUT"
begin=$SECONDS

declare -A jobs=()
trap '[ ${#jobs[@]} = 0 ] || kill "${jobs[@]}" 2>/dev/null || true' EXIT

# start NAME COMMAND...: in the background, on one core, with its output in $OUT/NAME.log.
start() {
  local name="$1"
  shift
  if [ -e "$OUT/$name.done" ]; then
    echo "   $name: already there"
    return
  fi
  OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$@" >"$OUT/$name.log" 2>&1 &
  jobs[$name]=$!
}

# finish: waits for all that were started; the first failure ends everything.
finish() {
  local name
  for name in "${!jobs[@]}"; do
    if ! wait "${jobs[$name]}"; then
      tail -n 20 "$OUT/$name.log" >&2
      echo "error: $name failed; its whole output is in $OUT/$name.log" >&2
      exit 1
    fi
    unset "jobs[$name]"
    touch "$OUT/$name.done"
  done
  echo "   ($((SECONDS - begin)) s)"
}

# run NAME COMMAND...: alone, with its output on the terminal.
run() {
  local name="$1"
  shift
  if [ -e "$OUT/$name.done" ]; then
    echo "   $name: already there"
    return
  fi
  "$@"
  touch "$OUT/$name.done"
}
