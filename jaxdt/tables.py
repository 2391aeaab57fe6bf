"""Tables for notebooks, which show what an object's `_repr_html_` returns."""

import html
from collections.abc import Iterable, Sequence


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """`head`: none where the first cell of each row says what it is."""

    def line(cells: Iterable[str], tag: str = "td") -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    lines = [line(head, "th")] if head else []
    return "\n".join(["<table>", *lines, *map(line, rows), "</table>"])


def html_text(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
