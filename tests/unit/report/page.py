"""A page as a browser would take it apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The texts, tags and attributes of a page, and what is drawn; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.raw, self.text = text, ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def names(self) -> set[str]:
        return {name for name, _ in self.tags}

    def pictures(self) -> list[str | None]:
        return [attributes["aria-label"] for tag, attributes in self.tags if tag == "svg"]

    def picture(self, label: str) -> str:
        return next(svg for svg in re.findall(r"<svg.*?</svg>", self.raw, re.DOTALL) if f"'{label}'" in svg)
