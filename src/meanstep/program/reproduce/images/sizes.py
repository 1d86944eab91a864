"""Names that the report still asks for here."""

from meanstep.program.reproduce.images.settings import Compute as Compute
from meanstep.program.reproduce.images.settings import Sizes as Sizes
