"""Believes, or doesn't: bytes of a payload in, checked values or an error out.

All pure: no file, no network, no clock. What leaves here has been checked against every limit and rule, so that the
rooms that write need no doubts of their own.
"""

from google.protobuf.internal import api_implementation

# upb refuses messages nested over 100 deep and costs what limits.py counts on; the pure Python decoder does neither
if api_implementation.Type() != "upb":
    raise ImportError(
        f"protobuf decodes with {api_implementation.Type()!r} here, not with 'upb': install its binary wheel, and unset"
        " PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
    )
