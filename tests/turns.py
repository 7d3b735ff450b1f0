"""What takes turns across the tests' packages."""

import pytest

kill_through_ray = pytest.mark.takes_turns(0.1, among="kills through Ray")
"""For what kills, stops or cuts off a run through Ray: minutes each, as a process of Ray's takes 7 s of CPU to start.

Points of kills are held without Ray each time, with forks (harvest/forked_kills.py, train/forked_kills.py). What only a
cluster shows, such as nodes that go and come, is seen in its turn.
"""
