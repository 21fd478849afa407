#!/usr/bin/env bash
# cargo's checks of native/, where cargo is and the crates are: native.sh lint, native.sh test. Where they are not,
# the data plane is pure Python, and there is nothing to check.
set -euo pipefail
cd "$(dirname "$0")/../native"

has() { cargo "$1" --version &>/dev/null; }

if ! cargo tree --locked --offline &>/dev/null; then
    printf 'native: no cargo here, or not its crates: native/ is not checked\n'
    exit 0
fi
case ${1:-} in
    lint)
        ! has fmt || cargo fmt --check
        ! has clippy || nice cargo clippy --quiet --release --locked --all-targets -- --deny warnings
        ;;
    test) nice cargo test --quiet --locked --lib --no-default-features ;;
    *)
        printf 'usage: %s lint|test\n' "$0" >&2
        exit 2
        ;;
esac
