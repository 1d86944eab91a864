"""The criterion that a user calls: draws noise and times, splits the rows among a recipe's terms, returns a loss and what to log.

Wrap a module that owns the field and calls this one in DDP, FSDP or compile.
"""

from meanstep.loss.criterion import Loss, Output, settled
from meanstep.loss.metrics import GAPS
from meanstep.loss.rows import Rows, made

__all__ = ["GAPS", "Loss", "Output", "Rows", "made", "settled"]
