"""update-payload: what a release engineer does. Images and keys in, signed payloads out.

The daemon never imports it.
"""
