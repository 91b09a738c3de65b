"""Second moments of a node that never fills, for Poisson arrivals, exact and without a matrix.

The chain of the model's section 4 -- arrivals ``x_1' ~ Poi(lambda tau)``, survivors
``x_{i+1}' ~ Bin(x_i, s_i)``, tau linear in the state -- has the stationary covariance of a
discrete Lyapunov equation over all (class, stage) pairs. Its matrix is a shift plus one rank: all
feedback passes through the scalar tau. Every request is therefore an independent shock to tau,
repeated by the resolvent ``R(z) = 1 / (1 - lambda z w(z))``, where ``w_m`` is the mean time that a
request adds to its iteration m. A covariance is the arrival intensity times the sum of the squared
response to one request, and Parseval makes that an integral over the unit circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving import RequestMix, SolveError, Tangent

DECADES = 22.0
"""The response to a request is followed until it has fallen by exp(-22) = 3e-10 ..."""
SPANS = 12
"""... or over this many longest stays, whose slowest part is then known and taken out.

What is left of the others is at most some 1e-6 of the result, with equal lengths the most."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Stationary second moments over iterations.

    Parameters
    ----------
    var_batch_tokens : [tokens^2]
    var_running : [requests^2]
    cov_running_tokens : [requests tokens]
    var_batch_time : [time^2]
    cov_running_time : shape (J,) [requests time]
        Covariance of each class's running requests with the batch time.
    """

    var_batch_tokens: float
    var_running: float
    cov_running_tokens: float
    var_batch_time: float
    cov_running_time: NDArray[np.float64]


def moments(
    mix: RequestMix, line: Tangent, arrival_rate: float, arrivals_per_batch: float
) -> Moments:
    """Return the second moments of batch tokens, running requests and batch time.

    Parameters
    ----------
    mix, line
        Lengths, and the affine law that stands for the batch-time law: the law itself where it is
        affine, else its tangent or statistical line, see :meth:`serving.BatchTimeLaw.tangent`.
    arrival_rate : [requests/time]
        lambda of the Poisson arrivals.
    arrivals_per_batch : [requests]
        Mean arrivals per iteration, ``lambda tau*`` for a node that is never idle.

    Raises
    ------
    SolveError
        If rho >= 1: there is no stationary state.
    """
    classes = np.unique(mix.request_class)
    alive, first, square = _tails(mix, classes)
    stage = np.arange(alive.shape[1])
    tokens = first + stage * alive
    n_total, b_total = alive.sum(axis=0), tokens.sum(axis=0)
    w_total = line.per_token * b_total + line.per_request * n_total

    log_z = _slowest(w_total, arrival_rate)
    size = _points(w_total.size, log_z)
    unit = np.exp(-2j * np.pi / size * np.arange(size // 2 + 1))
    n_hat, b_hat = np.fft.rfft(alive, size), np.fft.rfft(b_total, size)
    w_hat = line.per_token * b_hat + line.per_request * n_hat.sum(axis=0)
    delayed = arrival_rate * unit / (1 - arrival_rate * unit * w_hat)  # lambda z R(z)
    resolvent = 1 + delayed * w_hat  # R(z)

    nn = _even(_sum_beyond(alive), size)
    nb = _cross(_sum_beyond(first) + _beyond_twice(alive), _sum_beyond(tokens), size)
    bb = _even((_sum_beyond(square + stage * first) + _beyond_twice(tokens)).sum(axis=0), size)
    nw = line.per_token * nb + line.per_request * nn  # of each class, complex
    nw_total = nw.sum(axis=0)
    bw = line.per_token * bb + line.per_request * nb.sum(axis=0).conj()
    ww = np.real(line.per_token * bw + line.per_request * nw_total)

    def mean(spectrum: NDArray) -> NDArray[np.float64]:
        return arrivals_per_batch * _circle_mean(spectrum, size, log_z)

    n_gain, b_gain = delayed * n_hat, delayed * b_hat
    all_n = n_gain.sum(axis=0)
    return Moments(
        var_batch_tokens=float(mean(bb + 2 * b_gain * bw.conj() + abs(b_gain) ** 2 * ww)),
        var_running=float(
            mean(nn.sum(axis=0) + 2 * all_n * nw_total.conj() + abs(all_n) ** 2 * ww)
        ),
        cov_running_tokens=float(
            mean(
                nb.sum(axis=0)
                + all_n * bw.conj()
                + nw_total * b_gain.conj()
                + all_n * b_gain.conj() * ww
            )
        ),
        var_batch_time=float(mean(abs(resolvent) ** 2 * ww)),
        cov_running_time=mean((nw + n_gain * ww) * resolvent.conj()),
    )


def _tails(
    mix: RequestMix, classes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return E[a^i; D > m, class j] for i = 0, 1, 2 with a = p + 1, each of shape (J, D_max)."""
    longest = mix.longest_decode
    at = np.searchsorted(classes, mix.request_class) * longest + mix.decode - 1
    cells, a = classes.size * longest, mix.prefill + 1
    weights = (mix.probability, mix.probability * a, mix.probability * a**2)
    exact = (np.bincount(at, weights=each, minlength=cells) for each in weights)
    alive, first, square = (_sum_beyond(each.reshape(-1, longest)) for each in exact)
    return alive, first, square


NO_RESPONSE = 1e-12
"""Share rho of the batch time that follows the arrivals below which no batch heeds another."""


def _slowest(shock: NDArray[np.float64], arrival_rate: float) -> float:
    """Return ``log z0``, where z0 > 1 is the real root of ``lambda z w(z) = 1``.

    The response to a request ends like ``z0^-n``; all other poles are farther from the circle.

    Raises
    ------
    SolveError
        If rho >= 1: the response does not end.
    """
    lag = np.arange(1, shock.size + 1)
    rho = arrival_rate * shock.sum()
    if rho >= 1:
        raise SolveError("moments", "saturated", f"rho is {rho:.6f}; allowed: below 1")
    if rho < NO_RESPONSE:
        return np.inf
    # by Jensen the root is at or below this first guess; Newton goes down to it
    log_z = -np.log(rho) * shock.sum() / (lag @ shock)
    for _ in range(50):
        power = shock * np.exp(log_z * lag)
        step = (arrival_rate * power.sum() - 1) / (arrival_rate * (lag @ power))
        log_z -= step
        if abs(step) < 1e-13 * log_z:
            break
    return float(log_z)


def _points(stages: int, log_z: float) -> int:
    """Return a number of points on the circle: enough for z0 itself, or for all other poles."""
    needed = max(4.0 * stages, min(DECADES / log_z, SPANS * stages), 64.0)
    return 1 << int(np.ceil(np.log2(needed)))


def _circle_mean(spectrum: NDArray, size: int, log_z: float) -> NDArray[np.float64]:
    """Return the mean over the unit circle of a spectrum sampled on its lower half.

    The trapezoidal rule on n points is off by ``2 c g(z0^-n)``, ``g(x) = x / (1 - x)``, c the
    amplitude of the pole z0: two rules, on all points and on every other, give mean and c.
    """
    real = np.real(spectrum)  # imaginary parts are odd and cancel
    ends = real[..., 0] + real[..., -1]
    fine = (2 * real.sum(axis=-1) - ends) / size
    coarse = (2 * real[..., ::2].sum(axis=-1) - ends) / (size // 2)
    if size * log_z > 2 * DECADES:
        return fine
    fine_gap, coarse_gap = 1 / np.expm1(size * log_z), 1 / np.expm1(size // 2 * log_z)
    return (fine * coarse_gap - coarse * fine_gap) / (coarse_gap - fine_gap)


def _sum_beyond(values: NDArray) -> NDArray[np.float64]:
    """Return sum_{k >= l} values[k] along the last axis."""
    return np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]


def _beyond_twice(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum_{k >= l} (k - l) values[k] along the last axis."""
    twice = _sum_beyond(_sum_beyond(values))
    return np.concatenate([twice[..., 1:], np.zeros_like(twice[..., :1])], axis=-1)


def _even(lags: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the spectrum of an autocovariance given at lags >= 0."""
    return 2 * np.real(np.fft.rfft(lags, size)) - lags[..., :1]


def _cross(
    second_leads: NDArray[np.float64], first_leads: NDArray[np.float64], size: int
) -> NDArray[np.complex128]:
    """Return the spectrum E[U conj V], given sum_m E[u_{m+l} v_m] and sum_m E[u_m v_{m+l}].

    At lags l >= 0 each; ``second_leads`` has V at the earlier stage.
    """
    late, early = np.fft.rfft(second_leads, size), np.fft.rfft(first_leads, size)
    return late + early.conj() - second_leads[..., :1]
