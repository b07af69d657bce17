"""A training that is killed goes on as if it never had been: the same bits in every file."""

import kill
import pytest

pytestmark = pytest.mark.program


def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path):
    moments = ["conversion", "picture", "checkpoint"]
    reached = kill.compare("gp", moments, 0, tmp_path)
    assert reached == moments


@pytest.mark.slow
@pytest.mark.parametrize("mode", kill.MODES)
def test_ten_kills_at_all_moments_change_no_bit(tmp_path, mode):
    assert len(kill.compare(mode, [*kill.MOMENTS], 1, tmp_path)) >= 8
