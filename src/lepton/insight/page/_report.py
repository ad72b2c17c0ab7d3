from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from lepton.insight.page._blocks import Block
from lepton.insight.page._render import Renderer
from lepton.insight.page._style import THEME
from lepton.train import write_atomically

__all__ = ["Section", "write_report"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        heading: its title, also in the table of contents. Empty for the words that open the page.
        blocks: what it holds, in order.
    """

    heading: str
    blocks: tuple[Block, ...]


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> Path:
    """Write one self-contained HTML page: styles, figures and pictures inside, nothing fetched.

    All text is escaped. Where there is a `Plot` or a `SpeechExample` the page holds a script of its own, and the page's
    policy allows that one only. The file appears at once and whole: a reader of an older one never sees half of a page.

    Args:
        path: of the file; its folder is made if it does not exist.
        title: of the page.
        sections: in their order; the first one may have no heading.

    Returns:
        The path.

    Raises:
        DataError: for a picture that is no PNG.
        MissingExtraError: if there is a `Chart` and matplotlib is not installed.
        OSError: if the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_report(pathlib.Path(folder, "report.html"), "a < b", [Section("", ("Hello.",))])
        ...     "<h1>a &lt; b</h1>" in page.read_text(encoding="utf-8")
        True
    """
    target = Path(path)
    write_atomically(target, _page(title, sections).encode())
    return target


def _page(title: str, sections: Sequence[Section]) -> str:
    renderer = Renderer()
    anchors = [f"part-{i}" for i in range(1, len(sections) + 1)]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(section.heading)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
        if section.heading
    )
    opening = sections[:1] if sections and not sections[0].heading else []
    bodies = [_section(section, anchor, renderer) for section, anchor in zip(sections, anchors, strict=True)]
    navigation = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>' if contents else ""
    parts = [*bodies[: len(opening)], navigation, *bodies[len(opening) :]]
    return _frame(title, "\n".join(part for part in parts if part))


def _frame(title: str, body: str) -> str:
    # What users wrote is escaped, so that these can only be the elements of plots and sounds.
    sound = '<figure class="sound' in body
    names = [*(["_report.js"] if '<figure class="plot" data-plot=' in body else []), *(["_sound.js"] if sound else [])]
    scripts = [_asset(name) for name in names]
    policy = _POLICY + ("; media-src data:" if sound else "")
    if scripts:
        policy += f"; script-src {' '.join(map(_digest, scripts))}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_styles()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<main id="content">
<h1>{escape(title)}</h1>
{body}
<footer>Written by Lepton. This page is one file; it loads nothing from elsewhere.</footer>
</main>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    return files("lepton.insight.page").joinpath(name).read_text(encoding="utf-8")


def _styles() -> str:
    light = " ".join(f"--{name}: {colour.light};" for name, colour in THEME.items())
    dark = " ".join(f"--{name}: {colour.dark};" for name, colour in THEME.items())
    return (
        f":root {{ {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-scheme=light]) {{ {dark} }} }}\n"
        f"@media screen {{ :root[data-scheme=dark] {{ {dark} }} }}\n{_asset('_report.css')}"
    )


def _section(section: Section, anchor: str, renderer: Renderer) -> str:
    blocks = renderer.blocks(section.blocks)
    if not section.heading:
        return f'<div id="{anchor}">\n{blocks}\n</div>'
    heading = f'<h2 id="{anchor}">{escape(section.heading)}</h2>'
    return f'<section aria-labelledby="{anchor}">\n{heading}\n{blocks}\n</section>'
