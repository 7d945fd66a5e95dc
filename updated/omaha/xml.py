"""A small, bounded reader of XML for hostile input (pure).

No document types, entities or processing instructions, UTF-8 only, limits on size, depth, elements and attributes, and
a single call into expat (feeding it in pieces costs quadratic time for large tokens in expat before 2.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_ELEMENTS = 2000
MAX_ATTRIBUTES = 64
MAX_TEXT = 8192  # characters of a name or an attribute's value; the longest in use is a signature's of 700


class XmlError(Exception):
    """The text isn't XML that we read; `doctype` and `too_large` tell the two special reasons."""

    def __init__(self, message: str, *, doctype: bool = False, too_large: bool = False) -> None:
        super().__init__(message)
        self.doctype, self.too_large = doctype, too_large


@dataclass(slots=True)
class Element:
    """An element: its name, attributes and children; text is of no interest to Omaha."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)

    def all(self, path: str) -> Iterator[Element]:
        """Yield the elements at a path of names below this one, `a/b/c`."""
        name, _, rest = path.partition("/")
        for child in self.children:
            if child.name == name:
                if rest:
                    yield from child.all(rest)
                else:
                    yield child

    def first(self, path: str) -> Element | None:
        """Return the first element at a path, None when there is none."""
        return next(self.all(path), None)

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute."""
        return self.attributes.get(name, default)


def parse_xml(body: bytes, limit: int = MAX_BYTES) -> Element:
    """Read a document.

    Raises:
        XmlError: it isn't well formed, not UTF-8, over a limit, or has what we refuse.
    """
    if len(body) > limit:
        raise XmlError(f"it is over {limit} bytes", too_large=True)
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise XmlError("it is not UTF-8") from error
    builder = _Builder()
    parser = expat.ParserCreate(encoding="utf-8")
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.EntityDeclHandler = builder.refuse_doctype
    parser.ProcessingInstructionHandler = builder.refuse_instruction
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise XmlError(str(error)) from error
    if builder.root is None:
        raise XmlError("it has no element")
    return builder.root


class _Builder:
    """Builds the tree, counting."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if len(self._open) >= MAX_DEPTH or self._elements > MAX_ELEMENTS or len(attributes) > MAX_ATTRIBUTES:
            raise XmlError("it has too many elements, levels or attributes", too_large=True)
        if max(map(len, (name, *attributes, *attributes.values()))) > MAX_TEXT:
            raise XmlError(f"a name or a value in it has over {MAX_TEXT} characters", too_large=True)
        element = Element(name, attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _name: str) -> None:
        self._open.pop()

    def refuse_doctype(self, *_: object) -> None:
        raise XmlError("it has a document type declaration", doctype=True)

    def refuse_instruction(self, *_: object) -> None:
        raise XmlError("it has a processing instruction")


def escape(text: str) -> str:
    """Return text safe inside a double-quoted attribute; characters that XML 1.0 can't hold become `?`."""
    allowed = ("?" if FORBIDDEN.fullmatch(char) else char for char in text)
    table = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
    return "".join(table.get(char, char) for char in allowed)
