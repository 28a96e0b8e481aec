# steps.sh - how our scripts talk: one line a step, and a failure that names its step.
# Sourced by quickstart, check and soak.

STEP="start"

say()  { printf '%s\n' "$*"; }
step() { STEP="$1"; printf '==> %s\n' "$STEP"; }
die()  { printf 'qhost: step "%s" failed: %s\n' "$STEP" "$1" >&2; [ $# -lt 2 ] || printf '%s\n' "$2" >&2; exit 1; }

# as_root COMMAND...: as it is for root, through sudo for everybody else.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need_packages NAME...: install those Debian packages that are missing.
need_packages() {
  local missing=() p
  for p in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  [ ${#missing[@]} -gt 0 ] || { say "    all there"; return 0; }
  command -v apt-get >/dev/null || die "this is no Debian or Ubuntu" "Install by hand what these are called there: ${missing[*]}"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "not root, and there is no sudo" "As root: apt-get install ${missing[*]}"
  say "    installing ${missing[*]}"
  as_root apt-get update -qq || die "apt-get update failed" "Check the network and /etc/apt/sources.list."
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
    || die "apt-get install failed" "Try by hand: apt-get install ${missing[*]}"
}

BUILD_PACKAGES=(build-essential cmake ninja-build pkg-config liblua5.4-dev libevent-dev libjansson-dev libsqlite3-dev
  libpcre2-dev libutf8proc-dev libcurl4-openssl-dev libssl-dev libsqlite3-dev libedit-dev)
MODEL_PACKAGES=(python3 python3-pip)
