#!/usr/bin/env bash
# Trains on several GPUs of one machine, or of several machines:
#   tools/dist_train.sh CONFIG GPUS [train.py arguments]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host PORT=29500 tools/dist_train.sh CONFIG 8
set -euo pipefail
if (($# < 2)); then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
config=$1 gpus=$2 python=${PYTHON:-python} train=$(dirname "$0")/train.py
shift 2
# A mistake ends here, with one line of the first node: torchrun would add its forty.
RANK=${NODE_RANK:-0} "$python" "$train" "$config" --launcher pytorch --dry-run "$@"
exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    --nproc-per-node="$gpus" \
    "$train" "$config" --launcher pytorch "$@"
