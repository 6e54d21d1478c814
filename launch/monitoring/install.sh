#!/bin/sh
# Installs Debian's Prometheus, with promtool, unless it is there; called by `make test`.
set -eu
command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "prometheus is missing, and only root can install it (apt-get install prometheus): its tests are skipped" >&2
  exit 1
fi
apt-get update -q && apt-get install -q -y --no-install-recommends prometheus || {
  echo "prometheus is missing and could not be installed: its tests are skipped" >&2; exit 1; }
