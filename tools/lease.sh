#!/bin/bash
# What to do on a GPU machine that is lent for minutes and has no network; docs/airgapped.md.
#
#   bash tools/lease.sh OUT [STEP SECONDS]...
#
# beside bundle/ (`make bundle`). Each step ends within its seconds, whatever becomes of it; what it
# measured until then is in OUT, a folder to be taken home, with a log of each step.
#   install   unpack and install the bundle (always done; seconds are for all the rest)
#   prove     does the GPU compute what the tests promise, and what does a step cost
#   pack      how many trainings should share it, in turns or at once (MPS)
#   train     the training loop beside others
#   run       the workflow itself with PARAMS (default params/cifar10-jpeg.yaml), packed for `make unpack`
# Further options of what they call, as environment variables: PROVE, PACK, TRAIN; JOBS: at a time in run.
set -u
wrong() { echo "lease: $1; use: bash tools/lease.sh OUT [prove|pack|train|run SECONDS]..." >&2; exit 2; }
[ $# -gt 0 ] || wrong "OUT is missing"
out=$(realpath -m "$1"); shift
given=("$@")
while [ $# -gt 0 ]; do
  case $1 in prove | pack | train | run) ;; *) wrong "'$1' is not a step" ;; esac
  [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || wrong "'$1' needs its seconds"
  shift 2
done
[ -f bundle/airgap.py ] || wrong "bundle/ is missing here; \`make bundle\` makes it"
set -- "${given[@]}"
params=${PARAMS:-params/cifar10-jpeg.yaml} here=$PWD project=$PWD/search-and-train
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$project
(nvidia-smi; which nvidia-cuda-mps-control; python3 --version; nproc; date) > "$out/machine.txt" 2>&1
step() { # NAME SECONDS COMMAND...: its last lines on the terminal, all of it in the log
  local name=$1 seconds=$2 began=$SECONDS; shift 2
  timeout --signal TERM --kill-after 5 "$seconds" "$@" > "$out/$name.log" 2>&1
  echo "== $name: status $?, $((SECONDS - began)) s"; tail -n "${LINES_SHOWN:-25}" "$out/$name.log" | cut -c1-400
}
step install 120 python3 bundle/airgap.py install
cd "$project" || exit 1
python=.venv/bin/python
while [ $# -gt 0 ]; do
  name=$1 seconds=$2; shift 2
  case $name in
    prove) step prove "$seconds" $python benchmarks/prove.py --out "$out" ${PROVE:-} ;;
    pack) step pack "$seconds" $python benchmarks/jobs.py --out "$out" --batch 64 --rounds 2 ${PACK:-} ;;
    train) step train "$seconds" $python benchmarks/train.py --out "$out" --batch 64 --rounds 3 ${TRAIN:-} ;;
    run)
      cd "$here"
      step run "$((seconds + 5))" python3 bundle/airgap.py run --params "$params" --time "$seconds" --jobs "${JOBS:-8}"
      step brought 30 python3 bundle/airgap.py pack --weights --total 16 "$out/brought"
      cd "$project" ;;
  esac
done
