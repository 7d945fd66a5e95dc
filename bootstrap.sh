#!/bin/sh
# Gets this machine ready for one Makefile target: system programs first, then the Python environment.
#
#   ./bootstrap.sh install what `make install` needs: Python packages only
#   ./bootstrap.sh demo    what `make demo` needs
#   ./bootstrap.sh test    what `make test` and `make check` need as well
#   ./bootstrap.sh image   what `make image` needs
#   ./bootstrap.sh vm      what `make vm` needs as well
#
# Root on a system with apt-get installs what is missing; anyone else is told which packages to ask for. A second call
# costs nothing: the environment carries the fingerprint of what it was made from.
set -eu

profile=${1:?usage: bootstrap.sh install|demo|test|image|vm}
python=${PYTHON:-python3}
venv=${VENV:-.venv}
PATH=$PATH:/usr/sbin:/sbin
cd "$(dirname "$0")"

# program:package, as Debian and Ubuntu name them
demo_programs="etcd:etcd-server dbus-daemon:dbus mkfs.ext4:e2fsprogs debugfs:e2fsprogs e2fsck:e2fsprogs sfdisk:fdisk"
test_programs="git:git setpriv:util-linux dbus-send:dbus mkfs.erofs:erofs-utils fsck.erofs:erofs-utils cgpt:cgpt
    systemd-analyze:systemd strace:strace openssl:openssl curl:curl veritysetup:cryptsetup-bin objcopy:binutils
    systemd-nspawn:systemd-container mmdebstrap:mmdebstrap losetup:mount partx:util-linux nsenter:util-linux
    qemu-system-x86_64:qemu-system-x86 mkfs.vfat:dosfstools mcopy:mtools strip:binutils depmod:kmod
    busybox:busybox-static grub-mkimage:grub-common
    sgdisk:gdisk grub-emu:grub-emu grub-editenv:grub-common grub-script-check:grub-common"
# file:package, for packages without a program
test_files="/usr/share/OVMF/OVMF_CODE_4M.fd:ovmf /usr/lib/systemd/boot/efi/systemd-bootx64.efi:systemd-boot-efi
    /usr/lib/grub/i386-pc/boot.img:grub-pc-bin"

image_programs="mkfs.ext4:e2fsprogs debugfs:e2fsprogs sfdisk:fdisk mmdebstrap:mmdebstrap systemd-sysusers:systemd
    mkfs.vfat:dosfstools mcopy:mtools strip:binutils depmod:kmod setpriv:util-linux"
image_files="/usr/lib/systemd/boot/efi/systemd-bootx64.efi:systemd-boot-efi /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf"

case $profile in
    install) programs= files= lock=requirements.lock ;;
    demo) programs=$demo_programs files= lock=requirements.lock ;;
    test) programs="$demo_programs $test_programs" files=$test_files lock=requirements-dev.lock ;;
    image) programs=$image_programs files=$image_files lock=requirements.lock ;;
    vm) programs="$image_programs qemu-system-x86_64:qemu-system-x86" files=$image_files lock=requirements.lock ;;
    *) echo "usage: bootstrap.sh install|demo|test|image|vm" >&2; exit 2 ;;
esac

missing_packages() {
    for pair in $programs; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done
    for pair in $files; do
        [ -e "${pair%%:*}" ] || echo "${pair#*:}"
    done
    command -v "$python" >/dev/null || echo python3
    [ -e /usr/share/zoneinfo/UTC ] || echo tzdata  # reboot windows have time zones
    # Debian splits ensurepip, which every new environment starts from, out of python3
    [ -x "$venv/bin/pip" ] || "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

missing() { missing_packages | sort -u | tr '\n' ' '; }

# etcd-server's package starts and enables a daemon of its own; here only the program is wanted, the tests start theirs.
# With systemd a mask keeps it down during the installation; elsewhere runlevel 1 does, in which no daemon starts.
install_packages() {
    quiet_etcd=
    case " $* " in
        *" etcd-server "*) [ ! -d /run/systemd/system ] || quiet_etcd=yes ;;
    esac
    echo "installing: $*"
    [ -z "$quiet_etcd" ] || systemctl --quiet mask --runtime etcd.service
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    RUNLEVEL=1 apt-get -qq install --yes --no-install-recommends "$@" >/dev/null
    if [ -n "$quiet_etcd" ]; then
        systemctl --quiet unmask --runtime etcd.service
        systemctl --quiet disable etcd.service
    fi
}

wanted=$(missing)
if [ -n "$wanted" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086 # a list of package names
        install_packages $wanted
        wanted=$(missing)
    fi
    if [ -n "$wanted" ]; then
        echo "error: make $profile needs programs of these packages: $wanted" >&2
        echo "what to do: sudo apt-get install --no-install-recommends $wanted" >&2
        exit 1
    fi
fi

version=$("$python" -c 'import sys; print(sys.version); sys.exit(sys.version_info < (3, 11))') || {
    echo "error: $python is too old: $version" >&2
    echo "what to do: make PYTHON=python3.11 (or newer)" >&2
    exit 1
}

fingerprint() { { echo "$version"; pwd; cat "$1" pyproject.toml; } | sha256sum; }
is_current() { [ "$(cat "$venv/.made-from-$1" 2>/dev/null)" = "$(fingerprint "$1")" ]; }

# the development lock holds all of the other one
if is_current "$lock" || is_current requirements-dev.lock; then
    exit 0
fi
if [ "$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" != "$version" ]; then
    echo "making $venv with Python ${version%% *}"
    "$python" -m venv --clear "$venv"
fi
echo "installing the packages of $lock"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"$venv/bin/pip" install --quiet --require-hashes -r "$lock"
"$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable .
fingerprint "$lock" > "$venv/.made-from-$lock"
