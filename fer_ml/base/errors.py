"""The error type whose messages are written for users."""

from typing import TYPE_CHECKING

from fer_ml.base.visible import visible, visible_lines

if TYPE_CHECKING:
    from pydantic import ValidationError


class FerError(Exception):
    """A fault that the user can fix.

    ``what`` states the fault in one sentence, ``where`` the file, field or key it was found at,
    ``allowed`` the values that would have been accepted, ``fix`` the next thing to do. ``code``
    names the kind of fault, in lower-case words joined by hyphens: wordings change, a code does
    not. The text of the exception holds all five, so that it reads the same in a terminal, in a log
    and in Dagster. Quoted text may come from anywhere, so it is made ``visible``; what and fix
    may have several lines.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str,
        where: object = None,
        allowed: object = None,
        fix: str | None = None,
    ) -> None:
        self.code = code
        self.what = visible_lines(what)
        self.where = None if where is None else visible(str(where))
        self.allowed = None if allowed is None else visible(str(allowed))
        self.fix = None if fix is None else visible_lines(fix)
        parts = [self.what]
        if self.where:
            parts.append(f"where: {self.where}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        super().__init__("\n  ".join([*parts, f"code: {self.code}"]))

    def __reduce__(self) -> tuple[object, ...]:
        # Arguments of subclasses, and keyword-only ones, do not survive the default pickling across
        # process pools.
        return (_rebuild, (type(self), self.args, self.__dict__))


def first_fault(error: "ValidationError", *above: str) -> str:
    """Return pydantic's first finding as ``above.field.name: message``."""
    first = error.errors()[0]
    place = ".".join(map(str, (*above, *first["loc"])))
    unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
    message = "there is no such field" if unknown else first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _rebuild(
    kind: type[FerError], args: tuple[object, ...], attributes: dict[str, object]
) -> FerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error
