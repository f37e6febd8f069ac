"""Numbers and names for readers: percentages, intervals, p-values; all as plain text, which templates escape."""

import html
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

MISSING = "missing"
NOISE_LEVEL = 0.05  # differences with a p-value below it are called larger than noise
LABEL_LENGTH = 48  # characters of a user's string inside a plot

_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # terminals' colours, which remote tracebacks carry
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Estimate(NamedTuple):
    """An accuracy between 0 and 1 with its 95 % interval and the number of samples; None is missing."""

    value: float | None
    low: float | None
    high: float | None
    n: int | None


def number(value: Any) -> float | None:
    """Returns a cell as a number, or None if it is missing or not finite."""
    if value is None or isinstance(value, str):
        return None
    return float(value) if math.isfinite(value) else None


def estimate(row: Mapping[Any, Any], name: str) -> Estimate:
    """Returns the columns `name`, `name_low`, `name_high` and `name_n` of a row."""
    n = number(row[f"{name}_n"])
    low, high = number(row[f"{name}_low"]), number(row[f"{name}_high"])
    return Estimate(number(row[name]), low, high, None if n is None else int(n))


def plain(value: Any) -> str:
    """Returns an axis value as text: whole numbers without a decimal point, null as "missing"."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN is not itself
        return MISSING
    return f"{value:g}" if isinstance(value, float) and not value.is_integer() else str(int(value))


def printable(value: Any) -> str:
    """Returns text without terminal colours; other control characters are replaced."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _COLOUR_CODE.sub("", plain(value)))


def short(value: Any) -> str:
    """Returns text as one line, short enough for a plot."""
    text = " ".join(printable(value).split())
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


def label(value: Any) -> str:
    """Returns short text that is safe in a plot, because Plotly reads text as HTML."""
    return html.escape(short(value), quote=False)


def percent(value: float | None, digits: int = 1) -> str:
    """Returns 0.649 as "64.9 %"."""
    return MISSING if value is None else f"{100 * value:.{digits}f}\u202f%"


def signed(value: float | None, digits: int = 1) -> str:
    """Returns a difference of 0.012 in points as "+1.2"."""
    if value is None:
        return MISSING
    rounded = round(100 * value, digits) + 0.0  # no negative zero
    return f"{rounded:+.{digits}f}".replace("-", "−")


def points(value: float | None, digits: int = 1) -> str:
    """Returns a difference of 0.012 as "+1.2 points"."""
    return MISSING if value is None else f"{signed(value, digits)}\u00a0points"


def size(value: float, digits: int = 1) -> str:
    """Returns the size of a difference of 0.012 or -0.012 as "1.2 points"."""
    return f"{abs(100 * value):.{digits}f}\u00a0points"


def interval(accuracy: Estimate, digits: int = 1) -> str:
    """Returns "62.8–66.9 %"."""
    if accuracy.low is None or accuracy.high is None:
        return MISSING
    return f"{100 * accuracy.low:.{digits}f}–{percent(accuracy.high, digits)}"


def precision(accuracy: Estimate, digits: int = 1) -> str:
    """Returns "(95 % interval 62.8–66.9 %, n = 2,000)"."""
    n = f"n\u00a0=\u00a0{MISSING if accuracy.n is None else format(accuracy.n, ',')}"
    return f"(95\u202f% interval {interval(accuracy, digits)}, {n})"


def with_interval(accuracy: Estimate, digits: int = 1) -> str:
    """Returns "64.9 % (95 % interval 62.8–66.9 %, n = 2,000)"."""
    return f"{percent(accuracy.value, digits)} {precision(accuracy, digits)}"


def p_value(p: float | None) -> str:
    """Returns "p = 0.41" or "p < 0.001"."""
    if p is None:
        return f"p {MISSING}"
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.2g}"


def p_alone(p: float | None) -> str:
    """Returns a p-value for a column of them: "0.41" or "< 0.001"."""
    if p is None:
        return MISSING
    return "<\u00a00.001" if p < 0.001 else f"{p:.2g}"


def span(difference: Any, digits: int = 1) -> str:
    """Returns "−0.41 to +0.60", the ends of a difference's interval in points; it has `low` and `high`."""
    return f"{signed(difference.low, digits)} to {signed(difference.high, digits)}"


def seconds(value: float) -> str:
    """Returns a duration in its largest sensible unit."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if value >= length:
            return f"{value / length:.1f}\u00a0{unit}"
    return f"{value:.1f}\u00a0s"


def moment(at: float | None) -> str:
    """Returns seconds since 1970 as a date and time in UTC."""
    return MISSING if at is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def yes_or_no(value: bool | None) -> str:
    """Returns "yes", "no" or "missing"."""
    return MISSING if value is None else "yes" if value else "no"


def decimal(value: float | None, digits: int = 3) -> str:
    """Returns a number with fixed decimals, or "missing"."""
    return MISSING if value is None else f"{value:.{digits}f}"


def fixed(value: float | None, digits: int) -> str:
    """Returns a number of either sign with fixed decimals, or "missing"."""
    return MISSING if value is None else decimal(round(value, digits) + 0.0, digits).replace("-", "−")


def significant(value: float) -> str:
    """Returns a number of any size with four significant digits."""
    return f"{value:.4g}".replace("-", "−")


def whole(count: int) -> str:
    """Returns "2,000"."""
    return f"{count:,}"


def several(count: int, one: str, many: str | None = None) -> str:
    """Returns "1 trial" or "2 trials"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: Iterable[str]) -> str:
    """Returns "a, b and c"."""
    *start, last = list(words) or [""]
    return f"{', '.join(start)} and {last}" if start else last
