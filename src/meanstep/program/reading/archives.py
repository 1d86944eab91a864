"""What the standard library and NumPy raise of a damaged archive, zip or tar, and of what is compressed in it. Opens none."""

import tarfile
import zipfile
import zlib

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error)
"""What is said of the archive itself."""
FAULTS = (
    *DAMAGED,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
    SyntaxError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
)
"""All that is raised while one is read."""
