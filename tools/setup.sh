#!/usr/bin/env bash
# Makes this machine and checkout ready: Debian packages that are missing, the virtual environment with the versions
# of requirements.lock, and the project itself in it, its native kernel included where there is cargo. Safe to run
# again; `make setup` runs it when something changed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# program:package, for each program that the tests, the demo and the benchmarks call.
programs=(
    ip:iproute2 nft:nftables ping:iputils-ping sysctl:procps tcpdump:tcpdump curl:curl
    wg:wireguard-tools wireguard-go:wireguard-go iperf3:iperf3
    stun:stun-client turnutils_stunclient:coturn miniupnpd:miniupnpd-nftables
    tinyproxy:tinyproxy-bin nginx:nginx
)

python=${PYTHON:-python3}

# Runs a command without its output, which is shown only if the command fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "failed: $* (its whole output is in $log)"
    fi
    rm -f "$log"
}

missing_packages() {
    local entry
    for entry in "${programs[@]}"; do
        command -v "${entry%%:*}" >/dev/null || printf '%s ' "${entry##*:}"
    done
    command -v "$python" >/dev/null || printf 'python3 '
    "$python" -c 'import ensurepip, venv' 2>/dev/null || printf 'python3-venv '
}

install_packages() {
    local packages service
    read -ra packages <<<"$(missing_packages)"
    [ "${#packages[@]}" -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "not root: first run as root: apt-get install ${packages[*]}"
    command -v apt-get >/dev/null || die "no apt-get here: install what provides: ${packages[*]}"
    say "installing Debian packages: ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update -q
    quietly apt-get install -q -y --no-install-recommends "${packages[@]}"
    # Tests start these themselves. As services they would start by themselves, and hold STUN's and the web's ports.
    for service in coturn nginx; do
        case " ${packages[*]} " in *" $service "*) systemctl disable --now "$service" &>/dev/null || true ;; esac
    done
}

check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$python" --version) is too old: 3.11 or newer is needed (set PYTHON=/path/to/python3.11)"
}

make_environment() {
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        say "creating .venv with $("$python" --version)"
        rm -rf .venv
        quietly "$python" -m venv .venv
    fi
    local pip=(.venv/bin/python -m pip --disable-pip-version-check)
    say "installing the locked Python packages"
    quietly "${pip[@]}" install -r requirements.lock
    say "installing meshnode and coordinator into .venv"
    # What is left of an earlier build must not pass for this one's. Without a network, cargo should not wait for it.
    rm -f meshnode/_native.*.so
    CARGO_NET_RETRY=0 quietly "${pip[@]}" install --no-deps --no-build-isolation --editable .
}

# The native kernel is optional: everything works without it, bulk traffic 5 to 10 times slower.
tell_kernel() {
    if [ "$(.venv/bin/python -c 'from meshnode.dataplane import KERNEL; print(KERNEL)')" = native ]; then
        say "the data plane is native"
    elif ! command -v cargo >/dev/null; then
        say "no cargo here: the data plane is pure Python, and slow; https://rustup.rs, then make setup again"
    else
        say "the data plane is pure Python, and slow, because native/ could not be built; this says why:"
        say "    cd native && cargo build --release --locked"
    fi
}

install_packages
check_python
make_environment
MESHNODE_PURE='' tell_kernel
say "ready"
