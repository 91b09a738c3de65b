"""A design names the columns of one fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.robust_fit import fit_relative

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A broken line is a term of a fit.

    Parameters
    ----------
    columns : shape (R, K)
        Basis of the line; see :func:`calibration.step_times.broken_lines.broken_line`.
    knots : shape (K,)
        Knot that each column belongs to.
    """

    columns: Array
    knots: Array


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A design holds measured times and the columns that explain the times.

    Parameters
    ----------
    columns : shape (R, K)
        Contents of each batch that take time.
    measured : shape (R,) [s]
        Measured time of each batch.
    terms : length K
        Term of the batch-time law that each column belongs to.
    names : length K
        Name of the coefficient of each column: the term, with the knot where the term is a line.
    base : shape (R,) [s]
        Part of the time that is known before the fit.
    """

    columns: Array
    measured: Array
    terms: tuple[str, ...]
    names: tuple[str, ...]
    base: Array | float

    @classmethod
    def of(
        cls, measured: Array, terms: Mapping[str, Array | Line], base: Array | float = 0.0
    ) -> Design:
        """Return the design of the terms of a law, in the order given."""
        columns: list[Array] = []
        owners: list[str] = []
        names: list[str] = []
        for term, content in terms.items():
            if isinstance(content, Line):
                columns.append(content.columns)
                names += [f"{term}[{knot:g}]" for knot in content.knots]
                owners += [term] * content.knots.size
            else:
                columns.append(content)
                names.append(term)
                owners.append(term)
        return cls(np.column_stack(columns), measured, tuple(owners), tuple(names), base)

    def where(self, keep: NDArray[np.bool_]) -> Design:
        """Return the design of the rows that a mask selects."""
        base = np.broadcast_to(np.asarray(self.base, float), self.measured.shape)[keep]
        return Design(self.columns[keep], self.measured[keep], self.terms, self.names, base)

    def fit(self, *, non_negative: bool = True) -> Array:
        """Return the coefficients of the robust relative fit, shape (K,)."""
        return fit_relative(
            self.columns, self.measured, base=self.base, non_negative=non_negative
        ).coefficients

    def by_term(self, coefficients: Array) -> dict[str, Array]:
        """Return the coefficients of each term, in the order of the columns."""
        owner = np.array(self.terms)
        return {term: coefficients[owner == term] for term in dict.fromkeys(self.terms)}
