"""Why logind refuses to reboot for a daemon without privileges: mostly it is polkit that says no, or isn't there.

The errors' names are logind's own and those of sd-bus (org.freedesktop.login1(5)), as systemd 252 and 257 send them.
"""

from __future__ import annotations

from updated.common.bus import Bus, BusCallError, BusError

POLKIT = "org.freedesktop.PolicyKit1"
NO_POLKIT = f"polkit isn't on the bus ({POLKIT}), and without it logind reboots for root only"
INSTALL = "install polkit (Debian's package polkitd)"
RULE = "put 50-lockd.rules where polkit reads it (version 121 or newer); `journalctl -u polkit` shows what it read"
ANSWERS = {  # of CanReboot, but yes
    "no": ("polkit forbids this daemon to reboot the host", "correct the rule that says no, in /etc/polkit-1/rules.d"),
    "challenge": ("polkit has no rule that lets this daemon reboot the host: it would ask for a password", RULE),
    "na": ("logind says that this host can't be rebooted", "set reboot_command in lockd.toml"),
}
INTERACTIVE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
INHIBITED = "org.freedesktop.login1.BlockedByInhibitorLock"


def explain_error(error: BusCallError, *, polkit_there: bool) -> tuple[str, str]:
    """Return why logind refuses, and what ends it (pure)."""
    if error.name == INHIBITED:
        return f"an inhibitor lock holds the reboot back: {error.text}", "`systemd-inhibit --list` shows whose it is"
    if error.name == DENIED and not polkit_there:
        return NO_POLKIT, INSTALL
    if error.name == DENIED:
        return ANSWERS["no"]
    if error.name == INTERACTIVE:
        return ANSWERS["challenge"]
    if "polkit" in error.text.lower() or POLKIT in error.text:
        return f"polkit can't be asked: {error.text} [{error.name}]", "repair polkit: `systemctl status polkit`"
    return f"logind refuses: {error.text} [{error.name}]", "`journalctl -u systemd-logind` says more"


async def is_polkit_there(bus: Bus) -> bool:
    """Tell whether somebody answers for polkit, or is started when asked; a bus that doesn't say counts as yes."""
    try:
        if await bus.owner(POLKIT):
            return True
        (names,) = await bus.call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListActivatableNames"
        )
    except (BusCallError, BusError):
        return True
    return POLKIT in names
