# Functions for the scripts in this folder, in POSIX sh. Source it from the clone's root:
#     cd "$(dirname "$0")/.." && . script/lib.sh

# Debian packages that Blender and its sandbox need.
DEBIAN_PACKAGES="python3-venv ca-certificates bubblewrap util-linux \
libseccomp2 libx11-6 libxrender1 libxxf86vm1 libxfixes3 libxi6 libxkbcommon0 libsm6 libgl1 libgomp1 libegl1"

UV_RELEASE=0.13.9

stage() {
    printf '\n== %s\n' "$*"
}

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Prints the path of Python 3.11. Debian's own is preferred, since the sandbox's unprivileged user must be
# able to read it; one in a home folder often cannot be read by others.
find_python() {
    for candidate in /usr/bin/python3.11 "$(command -v python3.11 || true)"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ] &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

# Prints the Debian packages that are not installed, in one line.
missing_debian_packages() {
    for package in $DEBIAN_PACKAGES; do
        case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in
        "install ok installed") ;;
        *) printf '%s ' "$package" ;;
        esac
    done
}

install_debian_packages() {
    if ! command -v dpkg-query >/dev/null; then
        echo "This is not Debian. Please install what corresponds to these packages: $DEBIAN_PACKAGES"
        return 0
    fi
    missing=$(missing_debian_packages)
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        die "Debian packages are missing. Run this as root, then start again:
    apt-get install --no-install-recommends ${missing% }"
    fi
    stage "Debian packages: $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || die "apt-get update failed: see above."
    # shellcheck disable=SC2086 # a list of names
    apt-get install -q -y --no-install-recommends $missing </dev/null ||
        die "apt-get could not install: $missing"
}
