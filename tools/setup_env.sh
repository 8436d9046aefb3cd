#!/usr/bin/env bash
# Makes the environment VENV with pinned versions: tools/setup_env.sh VENV [demo|all].
# Run it again at any time: a finished set-up takes no time, an interrupted one goes on.
# The Makefile calls it, and documents TORCH, STACK, OPS and PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=$1 PART=${2:-all}
STACK=${STACK:-} OPS=${OPS:-} TORCH=${TORCH:-} # empty: OpenMMLab's, ours, the pinned one
PY=$VENV/bin/python LOG=$VENV/setup.log

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] failed: %s\n' "$*" >&2 && exit 1; }

# Runs a command with its output in the log; $1 says what it is for.
quietly() {
  "${@:2}" >"$LOG" 2>&1 || die "$1: $(grep -m1 -iE '(^| )error' "$LOG" ||
    tail -1 "$LOG") (all of it: $LOG)"
}

# What is installed. The fork's distributions stand in for all that begin with mm; a
# compiled mmcv and mmcv-lite would overwrite each other.
pins() {
  local files=(constraints.txt)
  [[ $PART == demo ]] || files+=(constraints-test.txt)
  if [[ $STACK == onedl ]]; then
    grep -hv '^mm' "${files[@]}"
    cat constraints-onedl.txt
  elif [[ $OPS == compiled ]]; then
    grep -hv '^mmcv-lite' "${files[@]}"
  else
    cat "${files[@]}"
  fi
}

python_fits() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
    2>/dev/null
}

find_python() {
  local candidate candidates=(python3.11 python3.12 python3.10 python3.13 python3)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    python_fits "$candidate" && echo "$candidate" && return
  done
  die "needs Python 3.10 to 3.13 with venv (${PYTHON:-python3} is not that):" \
    'apt-get install python3-venv, or PYTHON=/path/to/python'
}

[[ -z $STACK || $STACK == onedl ]] || die "STACK must be onedl or left out, not '$STACK'"
[[ -z $OPS || $OPS == compiled ]] || die "OPS must be compiled or left out, not '$OPS'"
[[ -z $OPS || -z $STACK ]] || die "OPS=compiled is for OpenMMLab's own mmcv, not STACK=$STACK"

stamp=$({ cat constraints*.txt setup.py pyproject.toml attn_plugins/version.py \
  attn_plugins/ops/link.py tools/setup_env.sh && echo "$PWD $STACK $OPS $TORCH"; } | sha256sum)
[[ ! -e $VENV/stamp-$PART || $(<"$VENV/stamp-$PART") != "$stamp" ]] || exit 0
trap 'die "interrupted: run it again, and it goes on"' INT

if ! "$PY" -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  say "making $VENV with $("$python" -V)"
  "$python" -m venv --clear "$VENV"
fi
# pip writes RECORD last: a package without it was cut off half-way.
for info in "$VENV"/lib/python3*/site-packages/*.dist-info; do
  [[ -e $info/RECORD ]] || rm -rf "$info"
done

# By pip, which finds builds that a machine keeps in a folder of its own.
torch=${TORCH:-$(pins | grep '^torch==')}
say "installing $torch (a large download, unless it is a build for CPUs)"
quietly "cannot install $torch" "$PY" -m pip install --disable-pip-version-check \
  "$torch" -c <([[ -n $TORCH ]] || grep -v '^torch' constraints.txt) "$(pins | grep '^uv==')"

say 'installing the pinned packages'
# uv does not read pip's settings: the index, where one is set, is handed on.
index=${PIP_INDEX_URL:-$("$PY" -m pip config get global.index-url 2>/dev/null || true)}
[[ -z $index || -n ${UV_DEFAULT_INDEX:-} ]] || export UV_DEFAULT_INDEX=$index
[[ -z ${PIP_CERT:-} || -n ${SSL_CERT_FILE:-} ]] || export SSL_CERT_FILE=$PIP_CERT
uv=("$PY" -m uv pip install --python "$PY" --no-deps)
quietly 'cannot install the pinned packages' "${uv[@]}" -r <(pins | grep -v '^torch')

if [[ $PART != demo ]]; then
  # torchvision 0.(N + 15).P is the one for torch 2.N.P. Never with its own needs: they
  # would be another torch.
  vision=$("$PY" -c 'import torch; v = torch.__version__.split("+")[0].split(".")
print(f"torchvision==0.{int(v[1]) + 15}.{v[2]}")')
  quietly "cannot install $vision" "$PY" -m pip install --no-deps "$vision"
  # torchvision cannot even be imported where its library does not fit torch (PyPI's,
  # beside a torch for CPUs), and mmpretrain imports it for its Python part. What fails
  # is a description of two operators that nobody declared: they get their declarations.
  if { "$PY" -c 'import torchvision' 2>&1 || true; } | grep -q 'nms does not exist'; then
    cat >>"$VENV"/lib/python3*/site-packages/torchvision/extension.py <<'PYTHON'

# Added by tools/setup_env.sh of attn_plugins, since the library did not load.
if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
  fi
fi

quietly 'cannot install attn_plugins' "${uv[@]}" --no-build-isolation -e .
if [[ $OPS == compiled ]]; then
  say "compiling mmcv's operators: needs g++ and Python's headers, many minutes"
  quietly 'cannot install what compiles' "${uv[@]}" ninja==1.13.2 psutil wheel==0.45.1
  export PATH=$PWD/$VENV/bin:$PATH MAX_JOBS=${MAX_JOBS:-$(nproc)} MMCV_WITH_OPS=1
  quietly 'cannot compile mmcv' "$PY" -m pip install --no-deps --no-build-isolation \
    --no-cache-dir --no-binary mmcv mmcv==2.1.0
else
  quietly "cannot link mmcv's operators" "$PY" -m attn_plugins ops link
fi
printf '%s\n' "$stamp" | tee "$VENV/stamp-$PART" >"$VENV/stamp-demo" # which is less
say "done: $VENV is ready"
