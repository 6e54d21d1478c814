#!/bin/sh
# All tests but the slow ones. Those that start Ray nodes wait more than they compute: the others run beside them,
# behind them in priority, and print when both are done.
#   sh tests/run.sh PYTHON [PYTEST ARGUMENTS]
set -u
python=$1
shift
told=$(mktemp)
nice -n 10 "$python" -m pytest -m "not slow and not cluster" "$@" >"$told" 2>&1 &
others=$!
trap 'kill $others 2>/dev/null; rm -f "$told"; exit 130' INT TERM
"$python" -m pytest -m "cluster and not slow" "$@"
of_nodes=$?
wait $others
of_others=$?
cat "$told"
rm -f "$told"
[ "$of_nodes" -eq 5 ] && [ "$of_others" -eq 5 ] && exit 5
for code in $of_nodes $of_others; do
  [ "$code" -eq 0 ] || [ "$code" -eq 5 ] || exit "$code" # 5: the arguments chose none of them
done
