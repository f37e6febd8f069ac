"""The page's templates: Jinja2 escapes every value they print, and `words.printable` cleans it."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report import words
from harness.report.figures.figure import choice_title

FILTERS = {
    "choice_title": choice_title,
    "decimal": words.decimal,
    "fixed": words.fixed,
    "interval": words.interval,
    "listed": words.listed,
    "moment": words.moment,
    "p_alone": words.p_alone,
    "p_value": words.p_value,
    "percent": words.percent,
    "plain": words.plain,
    "points": words.points,
    "precision": words.precision,
    "seconds": words.seconds,
    "several": words.several,
    "signed": words.signed,
    "significant": words.significant,
    "size": words.size,
    "span": words.span,
    "whole": words.whole,
    "yes_or_no": words.yes_or_no,
}


def render(name: str, **values: Any) -> Markup:
    """Returns the template `templates/NAME` rendered with plain values, which are escaped.

    Raises `jinja2.UndefinedError` if the template uses a value that is not given.
    """
    return Markup(_environment().get_template(name).render(values))


def asset(name: str) -> str:
    """Returns a style sheet or a script of the page, `templates/NAME`, verbatim."""
    return files("harness.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("harness.report", "templates"),
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment


def _clean(value: Any) -> Any:
    """Returns a value as printable text; markup comes from templates, where its parts were cleaned."""
    return value if isinstance(value, Markup) else words.printable(value)
