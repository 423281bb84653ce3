"""A table of results as sections tell it: what is answered, and why the rest is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from sodiumprep.bids_app.group.page import Section
from sodiumprep.bids_app.group.shown import Places, Shown, answered, unanswered, where_all_are


@dataclass(frozen=True)
class Answers:
    """What a table of results answers.

    Parameters
    ----------
    table
        All rows.
    column
        Where the number is that was asked for.
    source
        Where the table lies, relative to the report.
    """

    table: pd.DataFrame
    column: str
    source: str

    @classmethod
    def of(cls, shown: Shown, places: Places, name: str, column: str) -> Answers:
        """Return what the column of a table of this name answers."""
        return cls(shown.table(name), column, places.source(name))

    @cached_property
    def known(self) -> pd.DataFrame:
        """Rows that hold a number."""
        return answered(self.table, self.column)

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why the other rows hold none."""
        return tuple(unanswered(self.table, self.column))

    def nothing(self, section: str, title: str, says: str) -> Section | None:
        """Return the section that says why nothing is known; none where nothing was asked."""
        return Section(section, title, says, "", notes=self.reasons) if len(self.table) else None

    def where_all_are(self, kept: pd.DataFrame) -> str:
        """Return the note that says where the rows are that the page does not show."""
        return where_all_are(self.table, kept, self.source)
