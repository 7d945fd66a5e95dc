"""Believes, or doesn't: bytes of a payload in, checked values or an error out.

All pure: no file, no network, no clock. What leaves here has been checked against every limit and rule, so that the
rooms that write need no doubts of their own.
"""
