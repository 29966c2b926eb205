"""What can go wrong in the compiler, and whose fault it is."""

from __future__ import annotations

from moec.dsl.spec import Origin


class CompileError(Exception):
    """The user asked for something that cannot be: illegal degrees, an unsupported combination.

    `origin` is the place in the `.moe` file, `advice` what would be legal.
    """

    exit_code = 1

    def __init__(self, message: str, origin: Origin, advice: str = "") -> None:
        super().__init__(message)
        self.message, self.origin, self.advice = message, origin, advice

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin.line else ""
        line = f"\n    {self.origin.text}" if self.origin.text else ""
        return f"{place}{self.message}{line}" + (f"\n  help: {self.advice}" if self.advice else "")


class InternalCompilerError(Exception):
    """A bug of ours: a graph that breaks the rules of its level."""

    exit_code = 70
