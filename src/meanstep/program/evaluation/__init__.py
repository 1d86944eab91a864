"""How far samples are from data: features of images, reference statistics kept on disk, distances by cell of a table."""

from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.evaluation.features import Extractor
from meanstep.program.evaluation.measures import Gathered, measured
from meanstep.program.evaluation.pictures import Pictures, pictures
from meanstep.program.evaluation.references import Reference, reference
from meanstep.program.registry import METRICS

__all__ = ["METRICS", "Extractor", "Gathered", "Pictures", "Reference", "measured", "open_extractor", "pictures", "reference"]
