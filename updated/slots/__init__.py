"""Switches: which two slots there are, which one runs, which one boots next.

In: a disk's partition table, the running kernel's word on what it booted. Out: the table with one entry changed, in
an order that a power cut at any write survives. It never touches what is in a slot.
"""
