"""The pages' texts in the app's language, where its Jinja environment can translate.

Flask-Babel and Jinja's own i18n extension put `gettext` and `ngettext` there. `{% trans %}` would
not even compile without the extension, so the templates call these functions instead.
"""

from __future__ import annotations

import typing as t

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape


@pass_context
def translate(context: Context, message: str, **values: t.Any) -> Markup:
    """The message in the app's language, with its values put in, and escaped."""
    return _translated(context, "gettext", (message,), message, values)


@pass_context
def ntranslate(context: Context, singular: str, plural: str, num: int, **values: t.Any) -> Markup:
    """The same for a number of things, which is `%(num)d` in the message."""
    english = singular if num == 1 else plural
    return _translated(context, "ngettext", (singular, plural, num), english, values, num=num)


def _translated(
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
        # Such a function puts the values in and adds the number itself, and may escape nothing.
        safe = {key: escape(value) for key, value in values.items()}
        return Markup(context.call(function, *args, **safe))
    return Markup(context.call(function, *args)) % {**values, **number}
