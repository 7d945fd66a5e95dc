"""Writes a release into the slot that doesn't run, in an order that a cut at any point survives.

In: a source of payload bytes, a keyring, a policy, the boot loader's data. Out: a slot whose content is proven, or an
error and a slot that can't boot. It never arms a slot: that is the agent's last step.
"""
