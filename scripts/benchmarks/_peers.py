"""One full update of an RBM (negatives, gradient, weights) as each peer does it, by its innermost functions.

All work on the same float32 batch already in memory, with the same number of threads, without logging.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from _ours import DEVICE, RATE, Size, batch

Update = Callable[[], None]


def scikit_learn(size: Size) -> Update:
    """`BernoulliRBM._fit`, the whole of what `fit` does with a batch, in the float32 that `fit` keeps: PCD-1, CPU."""
    from sklearn.neural_network import BernoulliRBM
    from threadpoolctl import threadpool_limits

    threadpool_limits(torch.get_num_threads(), user_api="blas")
    x = batch(size.batch, size.sites).cpu().numpy()
    rbm = BernoulliRBM(size.hidden, learning_rate=RATE, batch_size=size.batch, n_iter=0).fit(x)
    draws = np.random.RandomState(0)
    return lambda: rbm._fit(x, draws)


def scikit_learn_partial_fit(size: Size) -> Update:
    """`BernoulliRBM.partial_fit`, which turns everything into float64."""
    from sklearn.neural_network import BernoulliRBM

    x = batch(size.batch, size.sites).double().cpu().numpy()
    rbm = BernoulliRBM(size.hidden, learning_rate=RATE, batch_size=size.batch)

    def update() -> None:
        rbm.partial_fit(x)

    return update


def rbms(size: Size) -> Update:
    """The body of the loop of `rbms.training.pcd.train`: `fit_batch_pcd` and its SGD; uncentred like the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.script
        from rbms.bernoulli_bernoulli.classes import BBRBM
        from rbms.training.pcd import fit_batch_pcd
    x = batch(size.batch, size.sites)
    data = x, torch.ones(len(x), device=DEVICE)
    weights = 0.01 * torch.randn(size.sites, size.hidden, device=DEVICE)
    model = BBRBM(weights, torch.zeros(size.sites, device=DEVICE), torch.zeros(size.hidden, device=DEVICE))
    model.init_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, maximize=True)
    chains = model.init_chains(size.chains)

    @torch.no_grad()
    def update() -> None:
        nonlocal chains
        optimizer.zero_grad(set_to_none=False)
        chains, _ = fit_batch_pcd(data, chains, model, gibbs_steps=size.k, beta=1.0, centered=False)
        optimizer.step()

    return update


def learnergy(size: Size) -> Update:
    """The update in the loop of its `RBM.fit`, without the pseudo-likelihood that `fit` logs; CD-k, its only kind."""
    from learnergy.models.bernoulli.rbm import RBM

    x = batch(size.batch, size.sites)
    model = RBM(size.sites, size.hidden, steps=size.k, learning_rate=RATE, use_gpu=True)

    def update() -> None:
        visible_states = model.gibbs_sampling(x)[-1].detach()
        cost = torch.mean(model.energy(x)) - torch.mean(model.energy(visible_states))
        model.optimizer.zero_grad()
        cost.backward()
        model.optimizer.step()

    return update


def plain_torch(size: Size) -> Update:
    """What one writes by hand: PCD-k, `rand < sigmoid`, the gradient in closed form."""
    x, v = batch(size.batch, size.sites), batch(size.chains, size.sites)
    weights = 0.01 * torch.randn(size.sites, size.hidden, device=DEVICE)
    b, c = torch.zeros(size.sites, device=DEVICE), torch.zeros(size.hidden, device=DEVICE)

    def draw(p: torch.Tensor) -> torch.Tensor:
        return (torch.rand_like(p) < p).float()

    @torch.no_grad()
    def update() -> None:
        nonlocal v
        for _ in range(size.k):
            h = draw((v @ weights + c).sigmoid())
            v = draw((h @ weights.T + b).sigmoid())
        positive, negative = (x @ weights + c).sigmoid(), (v @ weights + c).sigmoid()
        weights.add_(x.T @ positive / len(x) - v.T @ negative / len(v), alpha=RATE)
        b.add_(x.mean(0) - v.mean(0), alpha=RATE)
        c.add_(positive.mean(0) - negative.mean(0), alpha=RATE)

    return update


def products(size: Size) -> Update:
    """The matrix products of the update and nothing else: the machine's own rate, in float32."""
    x, v = batch(size.batch, size.sites), batch(size.chains, size.sites)
    h = torch.zeros(size.chains, size.hidden, device=DEVICE)
    weights = 0.01 * torch.randn(size.sites, size.hidden, device=DEVICE)

    def multiply() -> None:
        for _ in range(size.k):
            v @ weights
            h @ weights.T
        x.T @ (x @ weights)
        v.T @ (v @ weights)

    return multiply
