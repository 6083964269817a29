"""The lead: one of several dispatchers on one database decides, the others wait until it is silent.

The row `dispatcher` names the holder and its epoch. The lead is free once its holder has stopped, or has not
ticked for the length of a lease. A dispatcher that restarts under the same name (the same data folder, which
one process at a time may use) takes over from itself without waiting.
"""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import Tx
from framefarm.server.dispatch.tables import leaders
from framefarm.server.rows import LeaderRow
from framefarm.server.sessions.tables import leases
from framefarm.server.settings import Settings

_ROW = leaders.c.name == "dispatcher"
LONGEST_GAP_SECONDS = 10.0
"""Time between two ticks beyond which runners may have been unable to renew their leases."""


class NotLeader(Exception):
    """This dispatcher does not lead, or no longer."""


class LeaderLease:
    """The lead as one dispatcher holds it. `epoch` 0: it has never led."""

    def __init__(self, settings: Settings, holder: str) -> None:
        self.holder = holder
        self.epoch = 0
        self.since_ms = 0
        self.steady_ms = 0
        """Losses before this time may be due to the farm's own absence, and count against no node."""
        self._settings = settings

    @property
    def _lease_ms(self) -> int:
        return round(self._settings.lease_seconds * 1000)

    def acquire(self, tx: Tx) -> None:
        """Take the lead if it is free. Raises NotLeader."""
        # Read without a lock first: the leader keeps the row locked during the transaction of a tick.
        row = tx.row_or_none(LeaderRow, sa.select(leaders).where(_ROW))
        if row is None:
            try:
                tx.conn.execute(sa.insert(leaders).values(name="dispatcher", epoch=0, holder="", ticked_ms=0))
            except sa.exc.IntegrityError:
                raise NotLeader from None  # another dispatcher began at the same moment
        elif not self._may_take(row, tx.now_ms):
            raise NotLeader
        row = tx.row(LeaderRow, sa.select(leaders).where(_ROW).with_for_update())
        if not self._may_take(row, tx.now_ms):
            raise NotLeader
        self.epoch = row.epoch + 1
        values = {"epoch": self.epoch, "holder": self.holder, "ticked_ms": tx.now_ms}
        tx.conn.execute(sa.update(leaders).where(_ROW).values(values))
        self.since_ms = tx.now_ms
        self._grant_full_leases(tx)

    def _may_take(self, row: LeaderRow, now_ms: int) -> bool:
        silent_ms = now_ms - row.ticked_ms
        return row.holder == self.holder or silent_ms >= self._lease_ms

    def renew(self, tx: Tx) -> None:
        """Keep the lead, with its row locked until the transaction ends. Raises NotLeader.

        After a long gap every session's lease gets its full length: no runner could renew it meanwhile.
        """
        own = _ROW & (leaders.c.epoch == self.epoch)
        row = tx.conn.execute(sa.select(leaders.c.ticked_ms).where(own).with_for_update()).one_or_none()
        if row is None:
            raise NotLeader
        if tx.now_ms - row.ticked_ms > min(LONGEST_GAP_SECONDS * 1000, self._lease_ms / 2):
            self._grant_full_leases(tx)
        tx.conn.execute(sa.update(leaders).where(own).values(ticked_ms=tx.now_ms))

    def require(self, tx: Tx) -> None:
        """Lock the lead until the transaction ends, for the leader's other loops. Raises NotLeader."""
        own = _ROW & (leaders.c.epoch == self.epoch)
        if tx.conn.execute(sa.select(leaders.c.epoch).where(own).with_for_update(read=True)).first() is None:
            raise NotLeader

    def release(self, tx: Tx) -> None:
        """Give up the lead, if held: another dispatcher may take it at once."""
        own = _ROW & (leaders.c.epoch == self.epoch)
        tx.conn.execute(sa.update(leaders).where(own).values(ticked_ms=0))

    def _grant_full_leases(self, tx: Tx) -> None:
        until = tx.now_ms + self._lease_ms
        tx.conn.execute(sa.update(leases).where(leases.c.expires_ms < until).values(expires_ms=until))
        self.steady_ms = until + round(self._settings.disconnected_budget_seconds * 1000)
