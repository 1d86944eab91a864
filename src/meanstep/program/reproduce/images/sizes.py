"""Names that the report still asks for here."""

from meanstep.program.reproduce.images.study import Compute as Compute
from meanstep.program.reproduce.images.study import Sizes as Sizes
