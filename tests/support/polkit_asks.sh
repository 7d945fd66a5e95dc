#!/bin/bash
# Asks a real polkitd, on a bus of its own, whether the users lockd and other may do something by the rule of lockd.
# Run it as root in a mount namespace of its own (unshare -m): it lays a rules folder and a passwd over the system's.
#     polkit_asks.sh FOLDER RULE ACTION...     prints USER ACTION yes|no
set -eu
folder=$1 rule=$2
shift 2
mkdir "$folder/rules"
cp "$rule" "$folder/rules/"
chmod 755 "$folder" "$folder/rules"
chmod 644 "$folder/rules/"*
{ cat /etc/passwd; echo "lockd:x:954:954::/:/usr/sbin/nologin"; echo "other:x:955:955::/:/usr/sbin/nologin"; } > "$folder/passwd"
mount --bind "$folder/rules" /usr/share/polkit-1/rules.d
mount --bind "$folder/passwd" /etc/passwd
cat > "$folder/bus.conf" <<'CONF'
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
<allow receive_sender="*"/></policy></busconfig>
CONF
mkfifo "$folder/address"
dbus-daemon --config-file="$folder/bus.conf" --nofork --nopidfile --print-address=1 > "$folder/address" 2> "$folder/bus.log" &
bus=$!
polkit=
trap 'kill $bus $polkit' EXIT
read -r DBUS_SYSTEM_BUS_ADDRESS < "$folder/address"
export DBUS_SYSTEM_BUS_ADDRESS
/usr/lib/polkit-1/polkitd --no-debug > "$folder/polkitd.log" 2>&1 &
polkit=$!
has_owner="--dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner string:org.freedesktop.PolicyKit1"
# shellcheck disable=SC2086
until dbus-send --bus="$DBUS_SYSTEM_BUS_ADDRESS" --print-reply $has_owner | grep -q true; do
    kill -0 $polkit
    sleep 0.1
done
for user in lockd:954 other:955; do
    setpriv --reuid="${user#*:}" --regid="${user#*:}" --clear-groups sleep 600 &
    asker=$!
    until [ "$(stat -c %u "/proc/$asker")" = "${user#*:}" ]; do  # until then it is root's, who may do everything
        sleep 0.1
    done
    for action in "$@"; do
        code=0
        pkcheck --action-id "$action" --process $asker > /dev/null 2>&1 || code=$?
        case $code in 0) verdict=yes ;; 1 | 2 | 3) verdict=no ;; *) exit 1 ;; esac
        echo "${user%:*} ${action##*.} $verdict"
    done
    kill $asker
done
