"""The lead: of several dispatchers on one database one decides, the others wait until it is silent.

The row `dispatcher` names the holder and its epoch. A holder that has not ticked for a lease has lost it; so
has one that stopped, at once. A dispatcher that comes back under the same name (the same data directory,
which one process at a time may hold) takes over from itself without waiting.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from framefarm.server.database import Tx
from framefarm.server.dispatch.tables import leaders
from framefarm.server.sessions.tables import leases
from framefarm.server.settings import Settings

_ROW = leaders.c.name == "dispatcher"
LONGEST_GAP_SECONDS = 10.0


class NotLeader(Exception):
    """Another dispatcher has the lead."""


class LeaderLease:
    """One dispatcher's hold of it. `epoch` 0: it never led."""

    def __init__(self, settings: Settings, holder: str) -> None:
        self.holder = holder
        self.epoch = 0
        self.since_ms = 0
        self.steady_ms = 0
        """What is lost before that may be lost because the farm was away, and speaks against no machine."""
        self._settings = settings

    @property
    def _lease_ms(self) -> int:
        return round(self._settings.lease_seconds * 1000)

    def acquire(self, tx: Tx) -> None:
        """Take the lead if it is free. Raises NotLeader."""
        # First without a lock: the leader holds its row's lock for as long as a tick's transaction takes.
        row = tx.conn.execute(sa.select(leaders).where(_ROW)).mappings().one_or_none()
        if row is None:
            try:
                tx.conn.execute(sa.insert(leaders).values(name="dispatcher", epoch=0, holder="", ticked_ms=0))
            except sa.exc.IntegrityError:
                raise NotLeader from None  # another began at the same moment
        elif not self._may_take(row, tx.now_ms):
            raise NotLeader
        row = tx.conn.execute(sa.select(leaders).where(_ROW).with_for_update()).mappings().one()
        if not self._may_take(row, tx.now_ms):
            raise NotLeader
        self.epoch = row["epoch"] + 1
        values = {"epoch": self.epoch, "holder": self.holder, "ticked_ms": tx.now_ms}
        tx.conn.execute(sa.update(leaders).where(_ROW).values(values))
        self.since_ms = tx.now_ms
        self._grant_full_leases(tx)

    def _may_take(self, row: Any, now_ms: int) -> bool:
        silent_ms: int = now_ms - row["ticked_ms"]
        return row["holder"] == self.holder or silent_ms >= self._lease_ms

    def renew(self, tx: Tx) -> None:
        """Keep the lead, and its row locked to the transaction's end: whoever takes the lead waits for it.
        After a gap every lease gets a full term: nobody could renew meanwhile. Raises NotLeader."""
        mine = _ROW & (leaders.c.epoch == self.epoch)
        row = tx.conn.execute(sa.select(leaders.c.ticked_ms).where(mine).with_for_update()).one_or_none()
        if row is None:
            raise NotLeader
        if tx.now_ms - row.ticked_ms > min(LONGEST_GAP_SECONDS * 1000, self._lease_ms / 2):
            self._grant_full_leases(tx)
        tx.conn.execute(sa.update(leaders).where(mine).values(ticked_ms=tx.now_ms))

    def require(self, tx: Tx) -> None:
        """For the leader's other loops: raises NotLeader; nobody takes the lead before this one commits."""
        mine = _ROW & (leaders.c.epoch == self.epoch)
        if tx.conn.execute(sa.select(leaders.c.epoch).where(mine).with_for_update(read=True)).first() is None:
            raise NotLeader

    def release(self, tx: Tx) -> None:
        """It stops: another may lead at once. Nothing, if it does not lead."""
        mine = _ROW & (leaders.c.epoch == self.epoch)
        tx.conn.execute(sa.update(leaders).where(mine).values(ticked_ms=0))

    def _grant_full_leases(self, tx: Tx) -> None:
        until = tx.now_ms + self._lease_ms
        tx.conn.execute(sa.update(leases).where(leases.c.expires_ms < until).values(expires_ms=until))
        self.steady_ms = until + round(self._settings.disconnected_budget_seconds * 1000)
