from .test_fuzz_files import *  # noqa
from .test_fuzz_files import maker, told
NEW = ("mixed.csv", "mixed.parquet", "sounds/1.wav", "arrays.safetensors", "ragged.npz", "tabled/manifest.json")
def test_damaged_files(maker): pass
def test_two_thousand_damaged_files(): pass
def test_new(maker):
    import time
    t = time.time(); n = 0; bad = []
    for number in range(30, 3000):
        case = maker.case(number)
        if case.target.file in NEW:
            n += 1
            bad.append(told(number, case, maker.here))
        if time.time() - t > 130: break
    print(n, time.time() - t)
    assert not any(bad), "\n" + "\n".join(filter(None, bad))
