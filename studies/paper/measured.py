"""What the committed studies measured, as the one table that `meanstep reproduce paper` reads: run again after a study has new records.

python studies/paper/measured.py            # from what is committed
python studies/paper/measured.py out/toys   # packs the studies in that folder into toys/records first
"""

import sys
from pathlib import Path

from meanstep.program.reproduce.paper.measured import FILE, Model, models, written

STUDIES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(STUDIES))
from packs import pack, unpacked  # noqa: E402

FOLDERS = ("plane/records/main", "mixtures/records/mixtures")
TOYS = STUDIES / "paper" / "toys" / "records"
KINDS = ("beta", "ema")
"""Ids of models that some published number is compared with begin so; an anchor is in no toy code."""


def gathered() -> list[Model]:
    """Every model of the committed studies that a published number is compared with."""
    found = []
    for name in (*(STUDIES / name for name in FOLDERS), *sorted(TOYS.glob("*"))):
        with unpacked(name) as folder:
            found += models(folder)
    return [model for model in found if model.id.split()[0] in KINDS and "anchor" not in model.id]


if __name__ == "__main__":
    for sweep in sorted(Path(sys.argv[1]).glob("*/sweep.json")) if sys.argv[1:] else []:
        pack(sweep.parent, TOYS / sweep.parent.name)
    written(gathered(), FILE)
    print(f"{FILE}: {len(gathered())} models")
