"""Translate the pages' texts with `gettext` and `ngettext` of the app's Jinja environment.

Flask-Babel and Jinja's i18n extension add these two functions to the environment. Without them, the
texts are English. The templates call `translate` and `ntranslate`. They cannot use `{% trans %}`,
because it does not compile without that extension.
"""

from __future__ import annotations

import typing as t

from flask import current_app
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape


@pass_context
def translate(context: Context, message: str, **values: t.Any) -> Markup:
    """The message in the app's language, with its values escaped and inserted."""
    return _call_gettext(context, "gettext", (message,), message, values)


@pass_context
def ntranslate(context: Context, singular: str, plural: str, num: int, **values: t.Any) -> Markup:
    """Like `translate`, for a message with a number: `%(num)d` is replaced by `num`."""
    english = singular if num == 1 else plural
    return _call_gettext(context, "ngettext", (singular, plural, num), english, values, num=num)


@pass_context
def language(context: Context) -> str:
    """The language of the texts, for `<html lang>`: Flask-Babel's locale if the app translates our
    texts, else English."""
    heading = "Your devices"
    if "babel" not in current_app.extensions or str(translate(context, heading)) == heading:
        return "en"
    from flask_babel import get_locale  # type: ignore[import-untyped]

    return str(get_locale() or "en").replace("_", "-")


def _call_gettext(
    context: Context,
    name: str,
    args: tuple[t.Any, ...],
    english: str,
    values: dict[str, t.Any],
    **number: int,
) -> Markup:
    function: t.Any = context.environment.globals.get(name)
    if function is None:
        return Markup(english) % {**values, **number}
    if getattr(context.environment, "newstyle_gettext", False):
        # A newstyle function inserts the values and the number itself. Escape the values here,
        # because Flask-Babel's functions do not.
        escaped = {key: escape(value) for key, value in values.items()}
        return Markup(context.call(function, *args, **escaped))
    return Markup(context.call(function, *args)) % {**values, **number}
