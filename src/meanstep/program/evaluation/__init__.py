"""How far samples are from data: features of rows, reference statistics kept on disk, distances by cell of a table.

The public names load their modules when they are used.
"""

from typing import TYPE_CHECKING

from meanstep.program.lazy import lazily

if TYPE_CHECKING:
    from meanstep.program.evaluation.examples import Examples as Examples
    from meanstep.program.evaluation.extractors import open_extractor as open_extractor
    from meanstep.program.evaluation.features import Extractor as Extractor
    from meanstep.program.evaluation.measures import Gathered as Gathered
    from meanstep.program.evaluation.measures import measured as measured
    from meanstep.program.evaluation.references import Reference as Reference
    from meanstep.program.evaluation.references import reference as reference

__getattr__ = lazily(__name__, __file__)
