"""Binary tables common in density estimation: one .npz file each."""

from typing import ClassVar, Literal

from typing_extensions import override

from ebm_cli.dataset.base import Binarize, Dataset, Raw, Values
from ebm_cli.dataset.binary_images import read_splits
from ebm_cli.dataset.files import data_root
from ebm_cli.registry import register

FOLDER = "binary_tabular"
VARIABLES = {"nltcs": 16, "plants": 69, "jester": 100, "mushrooms": 112, "dna": 180, "nips": 500}


@register("dataset", "binary_tabular")
class BinaryTabular(Dataset):
    """Tables of binary variables with their standard splits into training, validation and test rows.

    The file is <root>/binary_tabular/<table>.npz with keys train, val, test (n, variables): nltcs (disability survey,
    16 variables), plants (where they grow, 69), jester (jokes liked, 100), mushrooms (112), dna (splice junctions,
    180), nips (words in papers, 500).

    Sources: D. Lowd and J. Davis, Learning Markov network structure with decision trees, ICDM 2010 (nltcs, plants,
    jester); J. Van Haaren and J. Davis, Markov network structure learning: a randomized feature generation approach,
    AAAI 2012 (dna); H. Larochelle and I. Murray, The neural autoregressive distribution estimator, AISTATS 2011
    (mushrooms, nips).
    """

    root: str | None
    table: Literal["nltcs", "plants", "jester", "mushrooms", "dna", "nips"]
    binarize: Binarize
    values: ClassVar[Values | None] = "binary"

    @override
    def read(self) -> Raw:
        """The file. Raises UserError if it is missing (there is no download) or malformed."""
        path = data_root(self.root) / FOLDER / f"{self.table}.npz"
        return read_splits(path, "binary", labelled=False, shape=(VARIABLES[self.table],))
