"""The features that a package lacks"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("packages", sa.Column("lacks", sa.JSON(), nullable=True))
    packages = sa.table("packages", sa.column("kind", sa.Text), sa.column("lacks", sa.JSON))
    # Every wheel that could be installed until now has a broken fluid solver; programs were never tried.
    wheels = sa.update(packages).where(packages.c.kind == "bpy")
    op.execute(wheels.values(lacks=["fluid_simulation"]))


def downgrade() -> None:
    with op.batch_alter_table("packages") as batch:
        batch.drop_column("lacks")
