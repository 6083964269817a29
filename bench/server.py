"""Memory and processor use of an idle server, and its growth in memory during a large upload."""

from __future__ import annotations

import argparse
import subprocess
import time

import psutil
from harness import bench_farm, row


def run(_options: argparse.Namespace) -> None:
    with bench_farm() as farm:
        process = psutil.Process(farm.process.pid)
        time.sleep(3)
        before, begun = process.cpu_times(), time.perf_counter()
        time.sleep(20)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        row("idle memory", [process.memory_info().rss / (1 << 20)], "MB", "goal 150")
        row("idle processor", [spent / (time.perf_counter() - begun) * 100], "% core", "goal 1")
        size = 4 << 30
        with open(farm.data / "large.bin", "wb") as file:
            file.truncate(size)
        rss = process.memory_info().rss
        command = [
            "curl", "-sf", "-H", f"Authorization: {farm.client.headers['Authorization']}",
            "-F", f"file=@{farm.data / 'large.bin'}", "-F", "path=/bench/large.bin",
            f"{farm.client.base_url}/api/uploads/file",
        ]  # fmt: skip
        upload = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = rss
        while upload.poll() is None:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.05)
        if upload.returncode:
            raise SystemExit("the upload failed")
        row("growth during an upload of 4 GiB", [(peak - rss) / (1 << 20)], "MB", "goal 50")
