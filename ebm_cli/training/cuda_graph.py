"""A whole training step as one CUDA graph: the device replays it without a launch from the host for each kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ebm_cli.device.replay import copy_all
from ebm_cli.sampler.base import engine_for
from ebm_cli.training.plan import Inputs, Planner, plan, plans
from ebm_cli.training.state import Parts, TrainState
from ebm_cli.training.step import Execution, Values, execute

_WARM_UP = 3  # executions before the capture: the first compiles, and libraries allocate what they keep


def execution(parts: Parts, state: TrainState) -> tuple[Execution, str | None]:
    """How this run's steps are executed: a graph where there can be one, and a sentence if it should but cannot.

    A graph is used only after it has reproduced a plain step to the bit.
    """
    plain = Execution(Planner(parts, plans), execute)
    if not capturable(parts, state):
        return plain, None
    with _restored(state):
        graph = Graph(parts, state, plan(parts, state))
    if not _reproduces(graph, parts, state):
        return plain, "CUDA graph differs; not used"
    return plain._replace(execute=graph.replay), None


def capturable(parts: Parts, state: TrainState) -> bool:
    """Everything compiled, on one GPU, and every step alike: then none asks the host or other processes."""
    device, components = parts.device, parts.components
    if components.chains.final_steps is not None:
        return False
    compiled = engine_for(components.sampler, state.model, device.engine).compiled
    return device.torch.type == "cuda" and compiled and device.ranks.count == 1


class Graph:
    """A captured step. It reads the inputs from tensors of its own and changes the state in place."""

    def __init__(self, parts: Parts, state: TrainState, inputs: Inputs) -> None:
        self.own = inputs.replaced([tensor.clone() for tensor in inputs.tensors()])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                execute(parts, state, self.own)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.values = execute(parts, state, self.own)

    def replay(self, parts: Parts, state: TrainState, inputs: Inputs) -> Values:
        """The captured step with these inputs."""
        copy_all(self.own.tensors(), inputs.tensors())
        self.graph.replay()
        return self.values._replace(metrics=self.values.metrics.clone(), norms=self.values.norms.clone())


@contextmanager
def _restored(state: TrainState) -> Iterator[None]:
    """Whatever happens within, the state is as before."""
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    try:
        yield
    finally:
        for name, tensor in state.tensors().items():
            tensor.copy_(before[name])


def _reproduces(graph: Graph, parts: Parts, state: TrainState) -> bool:
    """Whether graph and plain execution leave the same state and say the same."""
    inputs, found = plan(parts, state), []
    for how in (execute, graph.replay):
        with _restored(state):
            values = how(parts, state, inputs)
            found.append([values.metrics.clone(), values.norms.clone(), *map(torch.clone, state.tensors().values())])
    return all(map(torch.equal, *found))
