"""How far samples are from data: features of rows, reference statistics kept on disk, distances by cell of a table.

The public names load their modules when they are used.
"""

from typing import TYPE_CHECKING

from meanstep.program.lazy import lazily

if TYPE_CHECKING:
    from meanstep.program.evaluation.examples import Examples
    from meanstep.program.evaluation.extractors import open_extractor
    from meanstep.program.evaluation.features import Extractor
    from meanstep.program.evaluation.measures import Gathered, measured
    from meanstep.program.evaluation.references import Reference, reference

__all__ = ["Examples", "Extractor", "Gathered", "Reference", "measured", "open_extractor", "reference"]
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Gathered", "measured"), "measures"),
        **dict.fromkeys(("Reference", "reference"), "references"),
        "Extractor": "features",
        "Examples": "examples",
        "open_extractor": "extractors",
    },
)
