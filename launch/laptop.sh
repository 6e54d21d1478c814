#!/bin/sh
# An experiment on this machine alone, on a Ray that starts and ends with it; from the repository's root:
#   launch/laptop.sh EXPERIMENT [a.b=value ...]
# Other programs come first. Stop it or lose power at any moment: the same command goes on where it was.
set -eu
[ $# -ge 1 ] || { sed -n 2,4p "$0" >&2; exit 2; }
PATH="$PWD/.venv/bin:$PATH"
command -v ukd >/dev/null || make install
exec nice -n 10 ukd run "$@" cluster.address=null cluster.local_nodes=1
