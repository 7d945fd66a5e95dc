"""What both daemons stand on: errors, clock, durable files, drop-ins, logging, D-Bus, processes.

Nothing here knows what an update is; it is all of `updated` that `lockd` may import.
"""
