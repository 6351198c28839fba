#!/bin/sh
# Makes sure that a Vulkan driver is there; installs Mesa's CPU driver (lavapipe) where none is.
# Only Debian and Ubuntu are changed, and only when no driver is found.
set -eu

[ "$(uname -s)" = Linux ] || exit 0

driver_found() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libvulkan\.so\.1' || return 1
    for manifest in /usr/share/vulkan/icd.d/*.json /usr/local/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json; do
        [ -e "$manifest" ] && return 0
    done
    return 1
}

driver_found && exit 0

. /etc/os-release
case " $ID ${ID_LIKE:-} " in
    *" debian "* | *" ubuntu "*) ;;
    *)
        echo "no Vulkan driver found: install your GPU's driver, or Mesa's vulkan drivers (package mesa-vulkan-drivers or vulkan-swrast)" >&2
        exit 1
        ;;
esac

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
apt_get() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }

echo "no Vulkan driver found: installing Mesa's"
if [ "$ID" = debian ] && [ "${VERSION_CODENAME:-}" = bookworm ]; then
    # Debian 12's own lavapipe (22.3.6) miscompiles shaders, so Mesa comes from the backports.
    echo 'deb http://deb.debian.org/debian bookworm-backports main' |
        $as_root tee /etc/apt/sources.list.d/bookworm-backports.list >/dev/null
    apt_get update
    apt_get install -y --no-install-recommends libvulkan1
    apt_get install -y --no-install-recommends -t bookworm-backports mesa-vulkan-drivers
else
    apt_get update
    apt_get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers
fi
driver_found || { echo "Mesa was installed, but no Vulkan driver manifest appeared under /usr/share/vulkan/icd.d" >&2; exit 1; }
