"""Images or rows of numbers in, batches out: sources, codecs, caches made once, and a loader whose order is of the seed alone.

The public names load their modules when they are used, so that what is light stays light.
"""

from typing import TYPE_CHECKING

from meanstep.program.lazy import lazily

if TYPE_CHECKING:
    from meanstep.program.data.autoencoders import Autoencoder, open_autoencoder
    from meanstep.program.data.batch import Batch
    from meanstep.program.data.build import make
    from meanstep.program.data.cache import Cache
    from meanstep.program.data.codecs import CODECS, decoded
    from meanstep.program.data.ensured import ensure
    from meanstep.program.data.loader import Loader
    from meanstep.program.data.manifest import Manifest, check_fits
    from meanstep.program.data.opened import Opened
    from meanstep.program.data.request import Request
    from meanstep.program.data.sources import Source, open_source

__all__ = [
    "CODECS",
    "Autoencoder",
    "Batch",
    "Cache",
    "Loader",
    "Manifest",
    "Opened",
    "Request",
    "Source",
    "check_fits",
    "decoded",
    "ensure",
    "make",
    "open_autoencoder",
    "open_source",
]
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Autoencoder", "open_autoencoder"), "autoencoders"),
        **dict.fromkeys(("CODECS", "decoded"), "codecs"),
        **dict.fromkeys(("Manifest", "check_fits"), "manifest"),
        **dict.fromkeys(("Source", "open_source"), "sources"),
        "Batch": "batch",
        "Cache": "cache",
        "Loader": "loader",
        "Opened": "opened",
        "Request": "request",
        "ensure": "ensured",
        "make": "build",
    },
)
