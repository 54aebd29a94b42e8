# What scripts/up and scripts/test share: getting what they need onto a Debian machine. To be sourced by bash.
#
# Nothing is installed that is there already, and an installation leaves nothing running: chaley runs brokers of its own.

say() { printf '==> %s\n' "$*" >&2; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 69
}

# Runs a command as root: directly, or with sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "'$*' needs root and there is no sudo; run it as root, then run this again"
  fi
}

# Installs Debian packages.
install_packages() {
  command -v apt-get >/dev/null || fail "this machine has no apt-get; install these by its own means, then run this again: $*"
  say "installing $* from Debian"
  as_root apt-get update -q >&2 || fail "'apt-get update' failed; look at the lines above, then run this again"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 ||
    fail "'apt-get install $*' failed; look at the lines above, then run this again"
}

# Cargo, and the linker that Rust needs but does not bring.
ensure_rust() {
  if ! command -v cargo >/dev/null && [ -r "$HOME/.cargo/env" ]; then
    . "$HOME/.cargo/env"
  fi
  command -v cargo >/dev/null || fail "there is no cargo; install Rust as https://rustup.rs says, then run this again"
  command -v cc >/dev/null || install_packages gcc libc6-dev
}

rabbitmq_is_installed() {
  [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null
}

# RabbitMQ's programs, without the system-wide broker that Debian's package starts and enables when it is installed.
ensure_rabbitmq() {
  if rabbitmq_is_installed; then
    return 0
  fi
  local units="rabbitmq-server.service"
  command -v epmd >/dev/null || units="$units epmd.socket epmd.service"
  # A subshell, so that the policy is removed however the installation ends.
  (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'as_root rm -f "$policy"' EXIT
      trap 'exit 130' INT TERM
      # 101: no service may be started (invoke-rc.d(8)).
      as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$policy"
    fi
    install_packages rabbitmq-server
  )
  rabbitmq_is_installed || fail "rabbitmq-server is still missing; run 'sudo apt-get install rabbitmq-server' and read what it says"
  if command -v systemctl >/dev/null; then
    # A policy that was there before may have let it start.
    [ ! -d /run/systemd/system ] || as_root systemctl stop $units >&2 || true
    as_root systemctl disable $units >&2 || fail "RabbitMQ was installed, but '$units' could not be disabled; run 'sudo systemctl disable $units'"
  elif command -v update-rc.d >/dev/null; then
    as_root update-rc.d rabbitmq-server disable >&2
  fi
  say "RabbitMQ is installed; its system-wide service is neither running nor enabled"
}

# What tests/power records the system calls of a store with.
ensure_strace() {
  command -v strace >/dev/null || install_packages strace
}

# A Python with pika in a virtual environment of its own, in directory $1; prints the path of its interpreter.
ensure_pika() {
  local venv="$1" version="1.3.2"
  local python="$venv/bin/python"
  if "$python" -c "import pika; assert pika.__version__ == '$version'" 2>/dev/null; then
    printf '%s\n' "$python"
    return 0
  fi
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
  say "making a Python environment with pika $version in $venv"
  { python3 -m venv --clear "$venv" && "$python" -m pip install -q --disable-pip-version-check "pika==$version"; } >&2 ||
    fail "pika $version could not be installed in $venv; is https://pypi.org reachable? Then run this again"
  printf '%s\n' "$python"
}
