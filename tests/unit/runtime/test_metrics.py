"""What a process says of its own use of the machine."""

from __future__ import annotations

import subprocess
import sys
import time

from pirl.runtime.metrics import system_metrics

BUSY = """
import time
end = time.process_time() + 0.5
while time.process_time() < end: pass
print(flush=True)
time.sleep(60)
"""


def test_cpu_seconds_count_a_living_child_and_keep_it_after_its_end():
    before = system_metrics()["system/cpu_s"]
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        living = system_metrics()
        assert living["system/cpu_s"] - before >= 0.45
        assert living["system/rss_mib"] > 5.0
    finally:
        child.terminate()
        child.wait(10)
    assert system_metrics()["system/cpu_s"] - before >= 0.45


def test_cpu_seconds_count_this_process():
    before = system_metrics()["system/cpu_s"]
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert system_metrics()["system/cpu_s"] - before >= 0.19
