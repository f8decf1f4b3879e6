"""The documentation inside Python's standard library as documents: a corpus that needs no network."""

from typing_extensions import override

from ebm_cli.dataset.base import Raw
from ebm_cli.dataset.counting import CountedTexts, Document
from ebm_cli.dataset.docstrings import documents
from ebm_cli.registry import register


@register("dataset", "stdlib_docs")
class StdlibDocs(CountedTexts):
    """Counts of words in the docstrings of each module of the installed Python's standard library, a document each."""

    @override
    def read(self) -> Raw:
        """Modules are read, not imported. Raises UserError where they give no vocabulary."""
        found = [Document(name, text) for name, text in documents()]
        return self.counted(found, "the standard library's docstrings")
