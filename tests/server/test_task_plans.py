"""Query plans: frequent queries scan no table that grows with all work ever done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from api_client import a_farm, a_site
from fake_engine import FakeEngine, ManualDispatcher

from framefarm.server.billing import service as billing
from framefarm.server.outputs import publisher
from framefarm.server.sessions.tables import leases

GROWING = "attempts|files|frames|job_state|jobs|leases|sessions|tasks"
WHOLE = re.compile(rf"SCAN ({GROWING})(?! USING (COVERING )?INDEX ix_\w+_(live|open|unposted|unpublished)\b)")
"""A plan that scans a growing table. A scan of an index of unfinished rows is allowed."""


@contextmanager
def plans(engine: sa.Engine) -> Iterator[dict[str, list[str]]]:
    """Each statement that runs meanwhile → the lines of its query plan."""
    seen: dict[str, list[str]] = {}

    def explain(_conn: Any, cursor: Any, text: str, values: Any, _context: Any, many: bool) -> None:
        if text.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {text}", values[0] if many else values)
            seen[text] = [row[3] for row in rows]

    sa.event.listen(engine, "before_cursor_execute", explain)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", explain)


@pytest.mark.parametrize("work", ["tick", "watch", "assign and report", "charge", "find unpublished files"])
def test_frequent_queries_scan_no_growing_table(tmp_path: Path, work: str) -> None:
    with a_farm(tmp_path, None) as context, a_site(context) as site:
        runner = site.runner(site.submit(frame_range="1-4", chunk_size=2)["id"])
        dispatcher = ManualDispatcher(context, FakeEngine(4), site.loop)
        with plans(context.db.engine) as seen:
            if work == "tick":
                dispatcher.turn()
            elif work == "watch":
                context.db.write_now(dispatcher._has_work)
            elif work == "hand out and report":
                runner.render_all()
                runner.end()
            elif work == "charge":
                context.db.write_now(billing.charge_due)
            else:
                context.db.write_now(publisher.unpublished_files)
    assert seen
    assert [(text, plan) for text, plan in seen.items() if any(map(WHOLE.search, plan))] == []


def test_a_lease_is_deleted_with_its_session(tmp_path: Path) -> None:
    with a_farm(tmp_path, None) as context, a_site(context) as site:
        job = site.submit(frame_range="1")["id"]
        one, other = site.runner(job), site.runner(job)
        one.lose()
        assert [row["session_id"] for row in site.rows(leases)] == [other.session]
        other.end()
        assert site.rows(leases) == []
