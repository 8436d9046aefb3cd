#!/usr/bin/env bash
# Makes .venv with everything pinned in constraints.txt. Run it again at any time: a
# finished set-up takes no time, an interrupted one goes on.
#
#   STACK=onedl                  the maintained fork of OpenMMLab (onedl-mmcv, ...), in
#                                .venv-onedl: constraints-onedl.txt has its pins
#   PYTHON=/path/to/python3.11   another Python (3.10 to 3.12)
#   TORCH=...                    another torch: a pip requirement or a wheel file, e.g.
#                                TORCH=torch==2.10.0; .venv remembers it. pip's own
#                                PIP_INDEX_URL, PIP_EXTRA_INDEX_URL choose the index,
#                                also of the torchvision that belongs to that torch.
#   MAX_JOBS=4                   compilers at a time (default: one per core)
set -euo pipefail

STACK=${STACK:-}
VENV=.venv${STACK:+-$STACK}
# The venv's programs are run as modules: their scripts name the folder they were
# installed in, which a moved checkout no longer has.
VENV_PYTHON=$VENV/bin/python
STAMP=$VENV/attn_plugins.stamp
TORCH_CHOICE=$VENV/attn_plugins.torch
TORCH_INSTALLED=$VENV/attn_plugins.torch-installed
TORCHVISION_INSTALLED=$VENV/attn_plugins.torchvision-installed
MMCV_HEADER=pytorch_cpp_helper.hpp
LOG=$VENV/attn_plugins.log
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/attn_plugins

say() { printf '[setup] %s\n' "$*"; }

die() {
  printf '[setup] failed: %s\n' "$*" >&2
  exit 1
}

# The fork replaces the distributions of OpenMMLab, whose names all begin with mm.
pins() {
  if [[ -z $STACK ]]; then
    cat constraints.txt
  else
    grep -v '^mm' constraints.txt
    cat "constraints-$STACK.txt"
  fi
}

pin() { pins | grep -E "^([a-z]+-)?$1=="; }

# What pip calls the mmcv of this stack.
mmcv_name() { pin mmcv | cut -d = -f 1; }

# --- what must be there before anything starts -------------------------------

python_fits() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null
}

find_python() {
  local candidate candidates=(python3.11 python3.12 python3.10 python3) found
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if python_fits "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  found=$("$candidate" -V 2>/dev/null) || found="no $candidate"
  die "needs Python 3.10 to 3.12 (found: $found): apt-get install python3.11-venv" \
    'python3.11-dev, or name one with PYTHON=/path/to/python3.11'
}

check_stack() {
  [[ -z $STACK || $STACK == onedl ]] ||
    die "STACK must be onedl, or left out for stock OpenMMLab, but is '$STACK'"
}

check_tools() {
  local python=$1 version missing=()
  version=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$version-venv")
  "$python" -c 'import os, sysconfig as s
os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null || missing+=("$version-dev")
  command -v "${CXX:-g++}" >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  [[ ${#missing[@]} == 0 ]] || die "something is missing: apt-get install ${missing[*]}"
}

# --- the choice of torch -----------------------------------------------------

# An explicit TORCH counts together with the index it comes from: the same requirement
# stands for other builds there. Hashed, since an index may carry a password.
torch_choice() {
  if [[ -n ${TORCH:-} ]]; then
    printf '%s\n' "$TORCH"
    printf '%s' "${PIP_INDEX_URL:-} ${PIP_EXTRA_INDEX_URL:-}" | sha256sum
  elif [[ -e $TORCH_CHOICE ]]; then
    cat "$TORCH_CHOICE"
  else
    pin torch
  fi
}

remember_torch() {
  if [[ -n ${TORCH:-} ]]; then
    torch_choice >"$TORCH_CHOICE.part"
    mv "$TORCH_CHOICE.part" "$TORCH_CHOICE"
  fi
}

# --- the stamp ---------------------------------------------------------------

fingerprint() {
  {
    pins
    cat setup.py pyproject.toml attn_plugins/version.py
    cat "${BASH_SOURCE[0]}"
    pwd # the editable install names this folder
    torch_choice
  } | sha256sum
}

is_finished() {
  venv_works && [[ -e $STAMP && $(<"$STAMP") == "$(fingerprint)" ]]
}

# --- the steps ---------------------------------------------------------------

# Runs pip with its output in the log; $1 says what it is for.
run_pip() {
  local purpose=$1 reason
  shift
  "$VENV_PYTHON" -m pip --disable-pip-version-check --no-input "$@" >"$LOG" 2>&1 || {
    reason=$(grep '^ERROR' "$LOG" | head -1 || true)
    if grep -q 'WARNING: Retrying' "$LOG"; then
      reason="no answer from the package index (network, proxy, PIP_INDEX_URL?)"
    fi
    die "$purpose: ${reason:-see} (all of it: $LOG)"
  }
}

# pip writes RECORD last, so that a venv or package without it was cut off half-way.
venv_works() {
  compgen -G "$VENV/lib/python3*/site-packages/pip-*.dist-info/RECORD" >/dev/null &&
    python_fits "$VENV_PYTHON" &&
    { [[ -z ${PYTHON:-} ]] || same_version "$PYTHON" "$VENV_PYTHON"; }
}

same_version() { [[ $("$1" -V 2>&1) == "$("$2" -V 2>&1)" ]]; }

make_venv() {
  if ! venv_works; then
    say "making $VENV with $("$1" -V)"
    "$1" -m venv --clear "$VENV"
  fi
}

drop_half_installed() {
  local info
  for info in "$VENV"/lib/python3*/site-packages/*.dist-info; do
    [[ -e $info/RECORD ]] || rm -rf "$info"
  done
  # Where pip parks what it is about to replace.
  rm -rf "$VENV"/lib/python3*/site-packages/~*
}

install_torch() {
  local choice requirement force=()
  choice=$(torch_choice)
  requirement=${choice%%$'\n'*}
  [[ -e $TORCH_INSTALLED && $(<"$TORCH_INSTALLED") == "$choice" ]] && return
  # pip takes any build of a version for the one that is asked for.
  [[ -e $TORCH_INSTALLED ]] && force=(--force-reinstall)
  say "installing $requirement (a large download)"
  run_pip "cannot install $requirement (must be torch >= 2.6 and < 2.14: $(pin mmcv) is \
C++17, which torch 2.14 no longer accepts; to go back: TORCH=$(pin torch))" \
    install --no-deps "${force[@]}" -c <(echo 'torch>=2.6,<2.14') "$requirement"
  printf '%s\n' "$choice" >"$TORCH_INSTALLED"
}

install_pinned() {
  local pinned="constraints${STACK:+-$STACK}.txt"
  say "installing the packages pinned in $pinned"
  run_pip "cannot install $pinned" \
    install --no-deps -r <(pins | grep -v -E '^(torch|torchvision|([a-z]+-)?mmcv)==')
  # A chosen torch may need more than the pinned one, or other versions.
  run_pip 'cannot install what torch needs' install "torch==$(torch_version)"
}

torch_version() {
  "$VENV_PYTHON" -c 'from importlib.metadata import version; print(version("torch"))'
}

# torchvision 0.(N + 15).P is the one for torch 2.N.P, from the oldest torch taken here on.
torchvision_version() {
  local major minor patch
  IFS=. read -r major minor patch < <(torch_version)
  patch=${patch%%[!0-9]*}
  printf '0.%d.%d\n' $((minor + 15)) "${patch:-0}"
}

# Never with what it needs: that would be another torch, with its nvidia-* packages,
# where the index has torchvision only for another build of this torch. mmpretrain wants
# no more than the Python part.
install_torchvision() {
  local choice requirement force=()
  choice=$(torch_choice)
  [[ -e $TORCHVISION_INSTALLED && $(<"$TORCHVISION_INSTALLED") == "$choice" ]] && return
  [[ -e $TORCHVISION_INSTALLED ]] && force=(--force-reinstall)
  requirement=torchvision==$(torchvision_version)
  say "installing $requirement"
  run_pip "cannot install $requirement, which belongs to torch $(torch_version)" \
    install --no-deps "${force[@]}" "$requirement"
  let_torchvision_import
  printf '%s\n' "$choice" >"$TORCHVISION_INSTALLED"
}

# Without its library torchvision does not even import, and with it whatever finds
# mmpretrain, which mmdet.models and mmseg.models do. `import attn_plugins` mends that,
# but stock tools import those first: so in .venv torchvision declares its two operators
# itself. Nothing is changed where the library loads.
let_torchvision_import() {
  local folder
  "$VENV_PYTHON" -c 'import torchvision' >"$LOG" 2>&1 && return
  grep -q 'operator torchvision::nms does not exist' "$LOG" || return 0
  say 'its operators do not load with this torch: it gets their declarations alone'
  folder=$("$VENV_PYTHON" -c 'from importlib.util import find_spec
print(*find_spec("torchvision").submodule_search_locations)')
  cat >>"$folder/extension.py" <<'PYTHON'


# Added by tools/setup_env.sh of attn_plugins, since the library did not load.
if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
}

# Compiled code fits one Python, one build of torch, one kind of ops (for CUDA: for the
# devices seen) and one machine.
mmcv_key() {
  "$VENV_PYTHON" - <<'PYTHON'
import os
import platform
import sys

import torch
from torch.utils.cpp_extension import CUDA_HOME

ops = 'cpu'
if CUDA_HOME and (torch.cuda.is_available() or os.getenv('FORCE_CUDA') == '1'):
    devices = range(torch.cuda.device_count())
    archs = {'%d.%d' % torch.cuda.get_device_capability(i) for i in devices}
    ops = 'cuda' + os.getenv('TORCH_CUDA_ARCH_LIST', '_'.join(sorted(archs)))
    ops = ops.replace(' ', '_').replace(';', '_')
python = 'cp%d%d' % sys.version_info[:2]
print(f'{python}-torch{torch.__version__}-{ops}-{platform.machine()}')
PYTHON
}

# Prints every 20 seconds how far the build in folder $1 is, until this shell ends.
watch_build() {
  local start=$SECONDS all
  while sleep 20 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
    all=$(cat "$1"/temp*/build.ninja 2>/dev/null | grep -c '^build ' || true)
    say "compiled $(find "$1" -name '*.o' 2>/dev/null | wc -l) of $all files," \
      "$(((SECONDS - start) / 60)) min"
  done
}

# Compiles the header of all sources of mmcv in folder $1: it takes in torch's, which is
# nine tenths of the work on each. Where the compiler cannot use the result (it is not
# g++, or has other options) it reads the header as ever.
precompile_header() {
  local header=$1/mmcv/ops/csrc/common/$MMCV_HEADER
  [[ ! -e $header.gch ]] || return 0
  "$VENV_PYTHON" - "$header" >"$LOG" 2>&1 <<'PYTHON' || true
import os
import subprocess
import sys
import sysconfig

import setuptools
from distutils.ccompiler import new_compiler
from distutils.sysconfig import customize_compiler
from torch.utils.cpp_extension import include_paths

header = sys.argv[1]
# The options that mmcv's sources get from setuptools, torch and mmcv.
compiler = new_compiler()
customize_compiler(compiler)
options = compiler.compiler_so[1:]
folders = [*include_paths('cpu'), sysconfig.get_path('include')]
options += [f'-I{folder}' for folder in folders]
options += ['-std=c++17', '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']
command = [os.getenv('CXX', 'c++'), *options, '-x', 'c++-header', header]
subprocess.run([*command, '-o', header + '.part'], check=True)
os.rename(header + '.part', header + '.gch')
PYTHON
}

# The sources lie in a folder of their own, so that an interrupted build goes on where
# it stopped; the wheel moves to its place only when it is whole.
build_mmcv() {
  local home=$1 work=$1.build log=$1.build/build.log watcher
  local settings=(MMCV_WITH_OPS=1 "MAX_JOBS=${MAX_JOBS:-$(nproc)}")
  # Not all sources begin with it, and only the first can be one that is compiled.
  settings+=("CPPFLAGS=${CPPFLAGS:-} -include $MMCV_HEADER")
  # Without a CUDA toolkit the ops are built for the CPU, whatever GPU is seen.
  [[ ${home##*/} == *-cuda* ]] || settings+=(CUDA_VISIBLE_DEVICES= FORCE_CUDA=0)
  mkdir -p "$work"
  if [[ ! -d $work/mmcv ]]; then
    run_pip "cannot download $(pin mmcv)" download --no-deps --no-build-isolation \
      --no-binary "$(mmcv_name)" -d "$work" "$(pin mmcv)"
    rm -rf "$work/mmcv.part"
    mkdir "$work/mmcv.part"
    tar -xzf "$work"/*mmcv-*.tar.gz --strip-components=1 -C "$work/mmcv.part" ||
      die "cannot unpack the sources of mmcv in $work"
    mv "$work/mmcv.part" "$work/mmcv"
  fi
  say "building $(pin mmcv) with its ops: about 5 minutes on 2 cores, this once"
  precompile_header "$work/mmcv"
  watch_build "$work/mmcv/build" 9>&- &
  watcher=$!
  # No cache: pip's own does not tell one torch from another.
  env "${settings[@]}" "$VENV_PYTHON" -m pip wheel -v --no-cache-dir --no-deps \
    --no-build-isolation -w "$work/wheel" "$work/mmcv" >"$log" 2>&1 || {
    tail -20 "$log" >&2
    die "cannot build mmcv (all of it: $log)"
  }
  kill "$watcher"
  rm -rf "$home"
  mv "$work/wheel" "$home"
  rm -rf "$work"
}

# Installs the wheel in folder $1 and tells whether its ops load.
mmcv_installs() {
  run_pip 'cannot install the built mmcv' \
    install --no-deps --force-reinstall "$1"/*mmcv-*.whl
  "$VENV_PYTHON" -c 'import mmcv.ops' >"$LOG" 2>&1
}

# Whether the mmcv in .venv is the wheel in folder $1, and works.
mmcv_is_from() {
  "$VENV_PYTHON" - "$(mmcv_name)" "$1" >"$LOG" 2>&1 <<'PYTHON'
import json
import sys
from importlib.metadata import distribution
from pathlib import Path

import mmcv.ops

name, home = sys.argv[1:]
origin = json.loads(distribution(name).read_text('direct_url.json'))['url']
sys.exit(origin.rpartition('/')[0] != Path(home).as_uri())
PYTHON
}

install_mmcv() {
  local home
  home=$CACHE/$(pin mmcv | tr -s = -)/$(mmcv_key)
  mmcv_is_from "$home" && return
  if [[ -d $home ]]; then
    say "installing mmcv from $home"
    mmcv_installs "$home" && return
    say "the ops of that mmcv do not load ($(tail -1 "$LOG")), so it is built again"
  fi
  build_mmcv "$home"
  mmcv_installs "$home" || die "mmcv was built, but: $(tail -1 "$LOG")"
}

install_package() {
  say 'installing attn_plugins (editable)'
  run_pip 'cannot install attn_plugins' install --no-deps --no-build-isolation -e .
}

# One set-up at a time: they share the cache, and perhaps .venv.
take_lock() {
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"
  flock -n 9 || {
    say 'another set-up is running: waiting for it to end'
    flock 9
  }
}

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  local python asked
  check_stack
  if is_finished; then
    return
  fi
  python=$(find_python)
  check_tools "$python"
  trap 'die "interrupted: run it again, and it goes on"' INT
  take_lock
  make_venv "$python"
  remember_torch
  asked=$(fingerprint) # now: the files may change before all is installed
  rm -f "$STAMP"
  drop_half_installed
  install_torch
  install_pinned
  install_torchvision
  install_mmcv
  install_package
  printf '%s\n' "$asked" >"$STAMP.part"
  mv "$STAMP.part" "$STAMP"
  say "done: $VENV is ready"
}

# Sourced (by the tests), it only defines its functions.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main
fi
