"""Tables of instance types, accounts' switches of them, packages (Blenders) and output destinations."""

from __future__ import annotations

import sqlalchemy as sa

from framefarm.server.database import metadata

instance_types = sa.Table(
    "instance_types",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # local-1
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("cores", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("gpu_model", sa.Text),
    sa.Column("gpu_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("gpu_memory_bytes", sa.BigInteger),
    sa.Column("operating_system", sa.Text, nullable=False, server_default="linux"),
    sa.Column("price_micros", sa.BigInteger, nullable=False),  # per slot-hour
    sa.Column("preemptible_price_micros", sa.BigInteger),  # per slot-hour
    sa.Column("position", sa.Integer, nullable=False, server_default="0"),
)

instance_switches = sa.Table(
    "instance_switches",
    metadata,
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), primary_key=True),
    sa.Column("instance_type_id", sa.Text, sa.ForeignKey("instance_types.id"), primary_key=True),
    sa.Column("enabled", sa.Boolean, nullable=False),
)

packages = sa.Table(
    "packages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # blender-4-2
    sa.Column("product", sa.Text, nullable=False, server_default="blender"),
    sa.Column("version", sa.Text, nullable=False),  # 4.2
    sa.Column("release", sa.Text, nullable=False),  # 4.2.23
    sa.Column("kind", sa.Text, nullable=False, info={"row": 'Literal["bpy", "executable", "archive"]'}),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("installed_ms", sa.BigInteger, nullable=False),
    # Codes of core/blender_features.py; null: they were not tried.
    sa.Column("lacks", sa.JSON(none_as_null=True), info={"row": "list[str] | None"}),
)

output_places = sa.Table(
    "output_places",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),  # gs://bucket/prefix, s3://…, file:///dir
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("account_id", "url"),
)
