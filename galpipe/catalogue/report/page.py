"""The page as HTML: a template and a style sheet, everything in one file that needs no network.

Whatever comes from data (ids, class names, column names, titles) is escaped by the template; a
content policy in the page forbids every address but those that hold their content.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

TEMPLATE, STYLE, SCRIPT = "page.html.j2", "page.css", "page.js"


def render(values: Mapping[str, Any]) -> str:
    """The page for the values its template names; the same text for the same values."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "share": share, "shade": shade}
    script = _text(SCRIPT)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_text(TEMPLATE)).render(
        **values,
        style=Markup(_text(STYLE)),  # noqa: S704 - our own file, as the script is
        script=Markup(script),  # noqa: S704
        script_digest=f"sha256-{digest}",
    )


def design() -> str:
    """A digest of template, style and script: another design is another page."""
    return hashlib.sha256("".join(map(_text, (TEMPLATE, STYLE, SCRIPT))).encode()).hexdigest()


def number(value: float | int | None, digits: int = 3) -> str:
    """A number to read: whole ones with commas, others to some decimals, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def share(part: float, whole: float) -> str:
    """A fraction in per cent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def shade(fraction: float) -> str:
    """Colours of a cell of the confusion table: cividis behind, ink that can be read before it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    back = colormaps["cividis"](fraction)
    return f"background:{to_hex(back)};color:{'#000' if fraction > 0.5 else '#fff'}"


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
