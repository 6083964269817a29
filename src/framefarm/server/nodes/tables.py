"""Nodes that an engine has shown, and the health of each."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.core.node_health import NodeState
from framefarm.server.database import EnumText, metadata

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("zone", sa.Text, nullable=False),
    sa.Column("market", sa.Text, nullable=False),  # on_demand | preemptible | any
    sa.Column("present", sa.Boolean, nullable=False),  # shown by the engine now
    sa.Column("leaving_ms", sa.BigInteger),  # deadline of its departure
    sa.Column("standing", EnumText(NodeState), nullable=False),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("counted_from_ms", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text),
)
