#!/bin/sh
# Makes the virtual environment $VENV with everything in it; called by `make install`.
# DeepSpeed's communication op is compiled here, once, so that no training waits for it.
set -eu
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || {
  echo "ukd-dist needs Python 3.11 or 3.12; $PYTHON is $("$PYTHON" --version). Set PYTHON=..." >&2; exit 1; }
command -v g++ >/dev/null || {
  echo "DeepSpeed compiles an op: install a C++ compiler (Debian, Ubuntu: apt-get install g++ python3-dev)" >&2; exit 1; }
"$PYTHON" -m venv "$VENV" || {
  echo "the venv module is missing (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
pip="$VENV/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt"
# torch first: another package's requirement of it would choose its largest build.
$pip torch setuptools wheel
$pip --no-deps torchvision
$pip -e ".[$DALI,dev]"
PATH="$PWD/$VENV/bin:$PATH" "$VENV/bin/python" -m ukd_dist.training.deepspeed_op
