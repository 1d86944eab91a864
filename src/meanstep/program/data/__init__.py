"""Images or rows of numbers in, batches out: sources, codecs, caches made once, and a loader whose order is of the seed alone.

The public names load their modules when they are used, so that what is light stays light.
"""

from typing import TYPE_CHECKING

from meanstep.program.lazy import lazily

if TYPE_CHECKING:
    from meanstep.program.data.autoencoders import Autoencoder as Autoencoder
    from meanstep.program.data.autoencoders import open_autoencoder as open_autoencoder
    from meanstep.program.data.batch import Batch as Batch
    from meanstep.program.data.build import make as make
    from meanstep.program.data.cache import Cache as Cache
    from meanstep.program.data.codecs import CODECS as CODECS
    from meanstep.program.data.codecs import decoded as decoded
    from meanstep.program.data.ensured import ensure as ensure
    from meanstep.program.data.loader import Loader as Loader
    from meanstep.program.data.manifest import Manifest as Manifest
    from meanstep.program.data.manifest import check_fits as check_fits
    from meanstep.program.data.opened import Opened as Opened
    from meanstep.program.data.request import Request as Request
    from meanstep.program.data.sources import Source as Source
    from meanstep.program.data.sources import open_source as open_source

__getattr__ = lazily(__name__, __file__)
