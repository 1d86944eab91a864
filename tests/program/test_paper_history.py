"""The published FID histories: what their authors count, and what two runs of one configuration can tell."""

import csv
import math

import pytest

from meanstep.program.reproduce.paper.history import AGAIN, FILE, OTHERS, ZERO, Checkpoint, counted, effects, histories, summary


def test_the_counts_are_those_of_a_loop_over_the_lines_of_the_file():
    with FILE.open(encoding="utf-8") as file:
        lines = [list(map(float, line)) for line in list(csv.reader(file))[1:]]
    late = [line for line in lines if line[0] >= 30_000]
    found = summary(histories())
    assert (len(lines), len(late)) == (59, 54) and found.checkpoints == 54
    assert found.ordered == sum(zero < a < b < c for _, zero, _, a, b, c in late) == 54
    assert found.ordered_again == sum(zero < a < b < c for _, _, zero, a, b, c in late) == 14
    assert found.without_zero == sum(a < b < c for *_, a, b, c in late)
    assert found.behind == sum(a < zero for _, _, zero, a, _, _ in late) == 40
    assert found.stretches == ((80_000, 275_000),)
    assert (round(found.seeds, 2), round(found.effect, 2)) == (0.82, 0.66)


def test_the_tables_of_the_paper_are_the_first_column_rounded():
    printed = {30: 128.9, 50: 54.5, 100: 22.0, 150: 15.5, 200: 13.0, 250: 11.9, 275: 11.6, 295: 11.37}
    at = {point.step // 1000: point.at[ZERO] for point in histories()}
    assert {step: abs(at[step] - fid) < 0.0501 for step, fid in printed.items()} == dict.fromkeys(printed, True)


def test_two_runs_tell_a_difference_of_fifteen_and_a_half_standard_deviations():
    point = Checkpoint(30_000, {ZERO: 10.0, AGAIN: 12.0, OTHERS[0]: 11.5, OTHERS[1]: 31.0, OTHERS[2]: -31.0})
    found = {effect.name: effect for effect in effects(point)}
    # Student's law with one degree of freedom is Cauchy's: its 97.5 percent point is tan(0.475 pi)
    assert found[OTHERS[0]].detectable == pytest.approx(math.tan(0.475 * math.pi) * math.sqrt(2) * math.sqrt(1.5))
    assert [found[name].difference for name in OTHERS] == [0.5, 20.0, -42.0]
    assert [found[name].told for name in OTHERS] == [False, False, True]


def test_the_authors_count_from_thirty_thousand_steps_on():
    assert counted(histories())[0].step == 30_000
