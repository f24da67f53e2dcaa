"""Builds the documentation: `make docs`. The settings and the public names come from the code."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from docutils import nodes
from pallets_sphinx_themes import ProjectLink, get_version
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from docs.reference import settings_as_markdown, signals_as_markdown

SOURCE = "https://github.com/flask-kvsession/flask-kvsession-redis"

project = "Flask-KVSession-Redis"
copyright = "The Flask-KVSession-Redis developers"
release, version = get_version(project)

extensions = ["myst_parser", "pallets_sphinx_themes", "sphinx.ext.autodoc"]
default_role = "py:obj"  # `name` in a docstring is a link if the name is documented, else code
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "flask"
html_title = f"{project} {version}"
html_context = {
    "project_links": [
        ProjectLink("Source", SOURCE),
        ProjectLink("Changes", f"{SOURCE}/blob/main/CHANGELOG.md"),
        ProjectLink("Issues", f"{SOURCE}/issues"),
    ]
}
html_sidebars = {
    "index": ["project.html", "globaltoc.html", "searchbox.html"],
    "404": ["searchbox.html"],
    "**": ["globaltoc.html", "localtoc.html", "relations.html", "searchbox.html"],
}
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_show_sourcelink = False


class FromCode(SphinxDirective):
    """Puts Markdown that a function makes from the code into the page."""

    required_arguments = 1
    functions: t.ClassVar = {"settings": settings_as_markdown, "signals": signals_as_markdown}

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.functions[self.arguments[0]]())


def link_to_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Files outside of docs/, such as SECURITY.md, are on the code host."""
    folder = Path(page).parent
    up = "../" * (len(folder.parts) + 1)
    source[0] = re.sub(rf"\]\({re.escape(up)}(?!\.\.)", f"]({SOURCE}/blob/main/", source[0])


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Shows the default of `user_id` in words."""
    if "_CURRENT_USER" not in (signature or ""):
        return None
    default = "user_id: UserId = <the signed-in user>"
    return re.sub(r"user_id: [^=]*= _CURRENT_USER", default, signature), returns


def link_to_setting(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Element | None:
    """Makes `KVSESSION_…` in a docstring a link to the setting."""
    if not node["reftarget"].startswith("KVSESSION_"):
        return None
    place = (node["refdoc"], app.builder, "confval", node["reftarget"], node, text)
    return env.domains.standard_domain.resolve_xref(env, *place)


def setup(app: Sphinx) -> None:
    app.add_directive("from-code", FromCode)
    app.connect("missing-reference", link_to_setting)
    app.connect("source-read", link_to_source)
    app.connect("autodoc-process-signature", shorten_signature)
