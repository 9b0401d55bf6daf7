"""What all reports are: a headline, facts and lists, and the forms that are made of them."""

from __future__ import annotations

from abc import abstractmethod

import msgspec

from pybak.report.forms import Facts, Lists, Parts, markdown_form, text_form
from pybak.stages import Stage


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A report that tells itself to people; `stages` are how long the run's stages took."""

    stages: tuple[Stage, ...] = ()

    def parts(self) -> Parts:
        """Give what the forms are made of."""
        return Parts(self.headline(), tuple(self._facts()), tuple(self._lists()), self._next_step())

    def to_text(self, width: int = 80) -> str:
        """Give the summary for a terminal; names are never cut."""
        return text_form(*self.parts(), width)

    def to_markdown(self) -> str:
        """Give the summary for a Prefect artifact."""
        return markdown_form(*self.parts())

    @abstractmethod
    def headline(self) -> str:
        """Say in one line how it went."""

    @abstractmethod
    def _facts(self) -> Facts:
        """Give what is told of it, by labels."""

    @abstractmethod
    def _lists(self) -> Lists:
        """Give the lists of problems."""

    def _next_step(self) -> tuple[str, str] | None:
        """Give a sentence and the command that it leads to, if there is a next step."""
        return None
