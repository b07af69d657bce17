"""A training that is killed goes on as if it never had been: the same bits in every file."""

import kill
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("mode", kill.MODES)
def test_ten_kills_at_all_moments_change_no_bit(tmp_path, mode):
    assert len(kill.compare(mode, [*kill.MOMENTS], 1, tmp_path)) >= 8
