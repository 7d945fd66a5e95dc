"""The whole codec under one name: messages, requests, answers."""

from updated.omaha.messages import App, Event, Manifest, NoUpdate, Offer, Package, Request
from updated.omaha.request import encode_request, parse_request
from updated.omaha.response import Response, decide, encode_response, parse_response

__all__ = [
    "App",
    "Event",
    "Manifest",
    "NoUpdate",
    "Offer",
    "Package",
    "Request",
    "Response",
    "decide",
    "encode_request",
    "encode_response",
    "parse_request",
    "parse_response",
]
