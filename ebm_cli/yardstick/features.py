"""Features of images in which samples are compared with data, and the two distances that are usual there."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm_cli.errors import install
from ebm_cli.space import Space

_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names the file it downloads
_ROWS_AT_ONCE = 50


def frechet(x: Tensor, y: Tensor) -> float:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) of the means and covariances of rows (n, d), (m, d).

    The squared Wasserstein distance of two normal laws (Dowson & Landau 1982; Heusel et al. 2017). It errs upwards, the
    more the fewer rows there are: compare numbers of equally many rows only.
    """
    x, y = x.double(), y.double()
    a, b = x.T.cov(), y.T.cov()
    value, vector = torch.linalg.eigh(a)
    root = (vector * value.clamp_min(0).sqrt()) @ vector.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross).item()


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018)."""
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.trace()) / (n * (n - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()


def weights() -> Path:
    """Where torch-fidelity keeps the weights of its Inception network."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS


def no_inception() -> str | None:
    """What is missing for Inception's features, in words, or None."""
    if find_spec("torch_fidelity") is None:
        return f"the package torch-fidelity is not installed ({install('fidelity')})"
    return None if weights().is_file() else f"its weights are not at {weights()}"


def inception(space: Space, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Maps x (n, *shape) to the 2048 pooled features of the Inception network of torch-fidelity."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network: Any = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights())
    )
    network = network.to(device).eval()

    def features(x: Tensor) -> Tensor:
        found = []
        for part in x.split(_ROWS_AT_ONCE):
            pixels = space.pixels(part).to(device)
            found.append(network(pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels)[0])
        return torch.cat(found)

    return features
