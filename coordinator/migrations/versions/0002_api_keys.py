"""API keys, and the counter that keeps their ids from being reused."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("prefix", sa.Text, nullable=False, unique=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("expiration", moment),
        sa.Column("last_seen", moment),
        sa.Column("created_at", moment, nullable=False),
    )
    # A database that holds counters at all holds all of them; an empty one gets them with its first record.
    counters = sa.table("id_counters", sa.column("name", sa.Text), sa.column("value", sa.BigInteger))
    zero = sa.select(sa.literal("api_key"), sa.literal(0)).where(sa.exists(sa.select(counters.c.name)))
    op.execute(counters.insert().from_select(["name", "value"], zero))
