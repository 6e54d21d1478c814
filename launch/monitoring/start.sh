#!/bin/sh
# Prometheus for the run at ROOT, with its alerts, until Ctrl-C; before, while or after it runs.
#   launch/monitoring/start.sh ROOT [PORT [STORE]]
# PORT: 9095; STORE, on a local disk: ROOT/metrics/prometheus. Of several splits ROOT is one's, as runs/table3/split0.
set -eu
[ $# -ge 1 ] || { sed -n 2,4p "$0" >&2; exit 2; }
root=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
store=${3:-$root/metrics/prometheus}
command -v prometheus >/dev/null || { echo "no prometheus: sh $here/install.sh" >&2; exit 1; }
for split in "$root"/*/experiment.yaml; do
  [ ! -e "$split" ] || { echo "$root holds several splits; name one, as $(dirname "$split")" >&2; exit 2; }
done
quoted() { printf %s "$1" | sed 's/[&|\\]/\\&/g'; }
mkdir -p "$store"
sed -e "s|ROOT|$(quoted "$root")|" -e "s|RULES|$(quoted "$(realpath "$here/../../dashboards/alerts.yaml")")|" \
  "$here/prometheus.yml" >"$store/prometheus.yml"
exec prometheus --config.file="$store/prometheus.yml" --storage.tsdb.path="$store/data" \
  --web.listen-address="127.0.0.1:${2:-9095}"
