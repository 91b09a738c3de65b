"""The survival polynomial of a full node: its roots decide whether the fluid limit cycles.

A node kept full by a backlog obeys ``sum_m c_m a_{n-m} = const`` for the admissions a of its
iterations, with ``c_m = E[(p + m + 1); D > m]`` the tokens that an admitted request needs m
iterations on. Deviations go like ``z^n`` at the roots of ``F(z) = sum_m c_m z^{-m}``: the discrete
node is stable iff all ``|z| < 1``. The stage equations ``dX_i/dt = (X_{i-1} s - X_i) / tau`` have
the same polynomial at ``z = 1 + sigma``, so the ODE asks only for ``Re z < 1`` (section 5).

With ``u = 1/z`` the largest ``|z|`` is the smallest zero of ``f(u) = sum_m c_m u^m``, whose
values on a circle are one FFT. The argument principle counts zeros inside a circle, which
finds the smallest one at any degree; low degrees take a companion matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix, SolveError

COMPANION_DEGREE = 60
"""Up to this degree all roots are eigenvalues of the companion matrix; beyond, it is slower."""

RING = 0.05
"""A root is confirmed by a ring of this half width, in units of the mean spacing of roots, that
holds it while nothing lies within: FFTs of up to 64 points per coefficient resolve it."""


def survival_polynomial(mix: RequestMix) -> NDArray[np.float64]:
    """Return ``c_m = E[(p + m + 1); D > m]`` for m = 0..D_max - 1 [tokens].

    The prefill may depend on D: in the steady state of a full node the mix of (p, D) among the
    admitted is the mix of the arrivals. The sum of all c is the work W.
    """
    stage = np.arange(mix.longest_decode)
    return mix.prefill_survival()[:-1] + (stage + 1) * mix.survival()[:-1]


def _roots(coefficients: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return all roots z of ``sum_m c_m z^{-m}``, by companion matrix; for low degrees."""
    return np.roots(coefficients).astype(complex)


def largest_root(coefficients: NDArray[np.float64]) -> complex:
    """Return the root z of ``sum_m c_m z^{-m}`` that is largest in modulus, with Im z >= 0.

    Parameters
    ----------
    coefficients : shape (K,)
        Positive. With K = 1 there is no root and 0 is returned.

    Raises
    ------
    SolveError
        If the root found does not pass the argument principle.
    """
    if coefficients.size == 1:
        return 0j
    if coefficients.size - 1 <= COMPANION_DEGREE:
        found = _roots(coefficients)
        root = found[np.argmax(abs(found))]
        return complex(root.real, abs(root.imag))
    return _largest_by_argument(coefficients)


FEW_ZEROS = 256
"""Degree up to which every zero near the circle is polished, a few milliseconds at most."""


def _largest_by_argument(c: NDArray[np.float64]) -> complex:
    """Bracket the modulus of the smallest zero u of f by counting, then polish it by Newton."""
    log_c = np.log(c)
    # by Enestrom and Kakeya no zero is closer; on (geometric) average they are at the second
    low = float((log_c[:-1] - log_c[1:]).min())
    high = float((log_c[0] - log_c[-1]) / (c.size - 1))
    for _ in range(60):
        if high - low < 0.02 / c.size:
            break
        middle = 0.5 * (low + high)
        low, high = (low, middle) if zeros_within(c, np.exp(middle)) > 0 else (middle, high)
    # zeros of one length of answers lie almost on a circle: where they are few, all are polished
    starts = c.size if c.size <= FEW_ZEROS else 32
    for attempt in range(4):
        zero = _nearest_zero(c, np.exp(0.5 * (low + high)), starts << 2 * attempt)
        modulus, ring = abs(zero), RING / c.size
        if zeros_within(c, modulus * (1 - ring)) == 0 < zeros_within(c, modulus * (1 + ring)):
            root = 1 / zero
            return complex(root.real, abs(root.imag))
    raise SolveError("certificate", "root", f"no root of degree {c.size - 1} was confirmed")


def zeros_within(c: NDArray[np.float64], radius: float) -> int:
    """Return how many zeros ``sum_m c_m u^m`` has in ``|u| < radius`` (argument principle)."""
    size = 1 << int(np.ceil(np.log2(8 * c.size)))
    scaled = c * np.exp(np.arange(c.size) * np.log(radius) - _largest_exponent(c, radius))
    for _ in range(4):
        value = np.fft.rfft(scaled, size)
        turn = np.angle(value[1:] * value[:-1].conj())
        if abs(turn).max() < 0.8 * np.pi:
            break
        size *= 2
    return -round(float(turn.sum()) / np.pi)  # rfft walks half of the circle, clockwise


def _largest_exponent(c: NDArray[np.float64], radius: float) -> float:
    return float((np.log(c) + np.arange(c.size) * np.log(radius)).max())


def _nearest_zero(c: NDArray[np.float64], radius: float, starts: int) -> complex:
    """Return the zero of smallest modulus near a circle, where Newton's own steps point to it."""
    size = 1 << int(np.ceil(np.log2(16 * c.size)))
    m = np.arange(c.size)
    scaled = c * np.exp(m * np.log(radius) - _largest_exponent(c, radius))
    step = np.fft.rfft(scaled, size) / np.fft.rfft(m * scaled, size)  # f / (u f'), in log u
    length = np.pad(abs(step), 1, constant_values=np.inf)
    dip = np.flatnonzero((length[1:-1] <= length[:-2]) & (length[1:-1] <= length[2:]))
    near = dip[abs(step[dip]) < 0.5 / c.size]
    dip = near if near.size else dip
    dip = dip[np.argsort(-step[dip].real)[:starts]]
    log_v = -2j * np.pi / size * dip - step[dip]
    for _ in range(12):
        power = np.exp(log_v[:, None] * m)
        move = (power @ scaled) / (power @ (m * scaled))
        log_v = log_v - move
        if abs(move).max() < 1e-13:
            break
    settled = abs(move) < 1e-9
    log_v = log_v[settled] if settled.any() else log_v
    return complex(radius * np.exp(log_v[np.argmin(log_v.real)]))


def ode_is_stable(coefficients: NDArray[np.float64]) -> bool:
    """Return whether all roots have ``Re z < 1``, which is what the stage equations ask for.

    ``Re z >= 1`` is the disc ``|u - 1/2| <= 1/2``: no zero of f may lie in it. On its rim
    ``u = cos(x) exp(i x)``, and f turns as often as there are zeros inside.
    """
    c = coefficients
    if c.size - 1 <= COMPANION_DEGREE:
        return bool((_roots(c).real < 1).all())
    points = 512
    for _ in range(5):
        x = np.linspace(0, 0.5 * np.pi, points)
        value, u = np.zeros(points, complex), np.cos(x) * np.exp(1j * x)
        for each in c[::-1]:
            value = value * u + each
        turn = np.angle(value[1:] * value[:-1].conj())
        if abs(turn).max() < 0.5 * np.pi:
            break
        points *= 2
    return round(float(turn.sum()) / np.pi) == 0
