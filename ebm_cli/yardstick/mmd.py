"""Maximum mean discrepancy, with the kernel exp(-decay |a - b|^2): of bits |a - b|^2 sites differ."""

from torch import Tensor


def mmd(x: Tensor, y: Tensor, within_y: float | None = None, decay: float | None = None) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), in float64.

    x (n, *shape) and y (m, *shape), n and m at least 2; k(a, b) = exp(-decay sum_i (a_i - b_i)^2). Without a decay it
    is 1 / sites: for bits k is exp(-share of sites in which a and b differ) (Grathwohl et al. 2021, who keep the terms
    i = j and so never come to 0). Its mean is 0 if x and y have one law, so it may be negative:

        sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 mean_ij k(x_i, y_j)

    `within_y` is the second term, `within(y)`, where it is known.
    """
    of_y = within(y, decay) if within_y is None else within_y
    return within(x, decay) + of_y - 2 * kernel(x, y, decay).mean().item()


def within(x: Tensor, decay: float | None = None) -> float:
    """Mean kernel of two different rows of x."""
    n = len(x)
    return ((kernel(x, x, decay).sum() - n) / (n * (n - 1))).item()


def resolution(y: Tensor, n: int, decay: float | None = None) -> float:
    """Standard deviation of `mmd` of n rows to y (m, *shape), if these have the law of y: what it cannot tell from 0.

    sigma sqrt(2 / (n (n - 1)) + 2 / (m (m - 1)) + 4 / (n m)), sigma^2 = E k~(y, y')^2 of independent y, y' and the
    kernel centred, k~(a, b) = k(a, b) - E k(a, y) - E k(y, b) + E k(y, y'): the terms of the estimate are then
    uncorrelated. Estimated from the pairs of y.
    """
    m = len(y)
    k = kernel(y, y, decay)
    k.fill_diagonal_(0)
    row = k.sum(1) / (m - 1)
    centred = (k - row[:, None] - row + row.mean()).fill_diagonal_(0)
    variance = centred.square().sum() / (m * (m - 1))
    return (variance * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m))).sqrt().item()


def kernel(x: Tensor, y: Tensor, decay: float | None = None) -> Tensor:
    """k(x_i, y_j), (n, m)."""
    return (-squared_distance(x, y) * (decay or 1 / x.flatten(1).shape[1])).exp()


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 = |x_i|^2 + |y_j|^2 - 2 x_i.y_j in float64, (n, m)."""
    u, v = x.flatten(1).double(), y.flatten(1).double()
    return u.square().sum(1)[:, None] + v.square().sum(1) - 2 * u @ v.T
