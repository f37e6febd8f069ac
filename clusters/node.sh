#!/usr/bin/env bash
# Sets up and starts each machine of a cluster: called by cluster.yaml, onprem.yaml and the Dockerfile.
#
#   node.sh install [RESULTS]   creates a virtual environment with this checkout, and settings for all shells
#   node.sh head                starts Ray as the head, which runs no trials
#   node.sh worker              starts Ray and joins the head at $RAY_HEAD_IP
#
# HARNESS_VENV names an existing virtual environment with all dependencies, for example on a shared disk; then nothing
# is installed. Otherwise ~/venv is created.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
settings=$HOME/.harness-env  # a command run over ssh starts with an empty environment

python() { # the first one that is new enough: the system's may be too old
  for name in python3 python3.13 python3.12 python3.11; do
    "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$name" && return
  done
  echo "node.sh: no Python from 3.11 to 3.13 on $(hostname)" >&2
  exit 1
}

install() {
  case ${1:-} in *SET-*) echo "node.sh: '$1' still has a placeholder to replace" >&2 && exit 2 ;; esac
  local venv=${HARNESS_VENV:-$HOME/venv} found
  if [ -z "${HARNESS_VENV:-}" ]; then
    found=$(python)
    if ! "$found" -c 'import ensurepip' 2>/dev/null; then  # a separate package on Debian and Ubuntu
      sudo apt-get -o DPkg::Lock::Timeout=300 update -q
      sudo apt-get -o DPkg::Lock::Timeout=300 install -yq "$found-venv"
    fi
    "$found" -m venv "$venv"
    "$venv/bin/pip" install -q -e "${checkout}[s3]" boto3  # Ray, as pinned in pyproject.toml, needs boto3
  fi
  cat >"$settings" <<END
export PATH=$venv/bin:\$PATH
export PYTHONPATH=$checkout
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
${1:+export HARNESS_RESULTS='$1'}
END
  touch "$HOME/.bashrc"  # at the top, since non-interactive shells often skip the rest
  grep -q "$settings" "$HOME/.bashrc" && return
  echo ". $settings" | cat - "$HOME/.bashrc" >"$HOME/.bashrc.new" && mv "$HOME/.bashrc.new" "$HOME/.bashrc"
}

start() {
  . "$settings"
  chmod 600 "$HOME/.ray/auth_token"  # it was copied with the mode it has on your machine
  cd "$checkout"                     # the working directory of jobs and workers
  ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  ray stop
  ray start "$@"
}

case ${1:-} in
  install) install "${2:-}" ;;
  # The dashboard runs any code it is sent, so it listens on localhost only; use an ssh tunnel.
  head) start --head --port=6379 --dashboard-host=127.0.0.1 --num-cpus=0 --num-gpus=0 --resources='{"head": 1}' \
    --autoscaling-config="$HOME/ray_bootstrap_config.yaml" ;;
  worker) start --address="$RAY_HEAD_IP:6379" ;;
  *) sed -n '4,6s/^# *//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
