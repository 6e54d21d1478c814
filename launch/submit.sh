#!/bin/sh
# An experiment as a job of a running Ray cluster, followed to its end; from the repository's root:
#   launch/submit.sh http://HEAD:8265 EXPERIMENT [a.b=value ...]
# Ctrl-C leaves the job running. Again, this follows the job that runs, or goes on where the last one ended.
# The exit status is 0 where the job succeeded.
set -eu
[ $# -ge 2 ] || { sed -n 2,5p "$0" >&2; exit 2; }
PATH="$PWD/.venv/bin:$PATH"
export RAY_API_SERVER_ADDRESS="$1"
shift
answer=$(ukd submit "$@" --json)
id=$(echo "$answer" | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
echo "submit.sh: following $id" >&2
ray job logs --follow "$id"
ray job status "$id" 2>&1 | grep -q succeeded
