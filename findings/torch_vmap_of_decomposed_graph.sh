#!/usr/bin/env bash
# A graph traced with the compiler's own decompositions is no longer batched by torch.vmap, but copied for each example.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx


def operations(examples, table):
    """Calls in the graph of torch.vmap of a traced function, for so many examples."""
    one = make_fx(lambda x, y: (x > y).float() * x, decomposition_table=table)(torch.zeros(5), torch.ones(5))
    batch = torch.zeros(examples, 5), torch.ones(examples, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        many = make_fx(torch.vmap(one))(*batch)
    return sum(node.op == "call_function" for node in many.graph.nodes)


plain = [operations(n, {}) for n in (2, 8, 32)]
decomposed = [operations(n, select_decomp_table()) for n in (2, 8, 32)]
print(f"torch {torch.__version__}; (x > y).float() * x, traced, then mapped over 2, 8 and 32 examples")
print("expected: as many operations whatever the number of examples")
print(f"seen: {plain} traced as it is, {decomposed} with the decompositions of torch._inductor")
print("(prims.convert_element_type has no batching rule, so vmap falls back to a loop, which tracing unrolls)")
sys.exit(not (len(set(plain)) == 1 and decomposed[2] > decomposed[1] > decomposed[0]))
PYTHON
