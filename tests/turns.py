"""What takes turns across the tests' packages.

What kills, stops or cuts off a run through Ray takes minutes, as a process of Ray's takes 7 s of CPU to start. Each commit
has one of a harvest, one of a training and one of a whole run. Points of kills are held without Ray each time, with forks
(harvest/forked_kills.py, train/forked_kills.py). What only a cluster shows, such as nodes that go and come, has its turn.
"""

import pytest

SHARE = 0.05
"""One, of up to twenty."""

kills_a_harvest = pytest.mark.takes_turns(SHARE, among="harvests killed through Ray")
kills_a_training = pytest.mark.takes_turns(SHARE, among="trainings killed through Ray")
kills_a_whole_run = pytest.mark.takes_turns(SHARE, among="whole runs killed through Ray")
"""Of the command line, or of a Prefect flow."""
