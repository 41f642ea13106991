#!/usr/bin/env bash
# Installs what `make test-globus` needs of Debian, unless it is there: RabbitMQ, Slurm, munge, shellcheck. The tests
# start servers of their own; the packages' are neither started now nor at the next boot.
set -euo pipefail

packages=(rabbitmq-server slurm-wlm slurm-client munge shellcheck python3-venv)
programs=(/usr/lib/rabbitmq/bin/rabbitmq-server /usr/sbin/slurmctld /usr/sbin/slurmd /usr/bin/sbatch /usr/sbin/munged
  /usr/bin/shellcheck)
services=(rabbitmq-server slurmctld slurmd munge epmd)

missing=()
for program in "${programs[@]}"; do
  [ -x "$program" ] || missing+=("$program")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "Missing: ${missing[*]}" >&2
install=(apt-get install -y --no-install-recommends "${packages[@]}")
if [ "$(id -u)" != 0 ]; then
  echo "Install them, and run this again: sudo apt-get update && sudo ${install[*]}" >&2
  exit 1
fi

# Debian asks this file whether a package may start its servers; 101 means no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update >&2
"${install[@]}" >&2
if command -v systemctl >/dev/null; then
  for service in "${services[@]}"; do
    systemctl disable "$service" >/dev/null 2>&1 || true
  done
fi
