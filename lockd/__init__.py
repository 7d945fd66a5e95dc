"""lockd: decides when this host may reboot.

What enters: "a reboot is needed" from the update agent on D-Bus, a policy file, and the group's tickets in etcd (or
in a file). What leaves: one request to reboot, and a ticket given back once the host is up again and healthy. It never
installs anything, and it never reboots when it doesn't know.
"""
