"""Drives an update from the poll to the confirmed boot.

In: timers, people's requests over D-Bus, outcomes of the work. Out: calls into the other rooms, status on D-Bus. It
never parses what a server sent and never writes to a slot itself.
"""
