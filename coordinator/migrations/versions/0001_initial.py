"""Users, pre-auth keys, nodes, and the counters that keep ids from being reused."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("provider_identifier", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("profile_pic_url", sa.Text, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.UniqueConstraint("name", "provider_identifier", name="users_name_provider_identifier"),
    )
    op.create_table(
        "pre_auth_keys",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("prefix", sa.Text, nullable=False, unique=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id")),
        sa.Column("reusable", sa.Boolean, nullable=False),
        sa.Column("ephemeral", sa.Boolean, nullable=False),
        sa.Column("used", sa.Boolean, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("expiration", moment),
        sa.Column("revoked", moment),
        sa.Column("created_at", moment, nullable=False),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("machine_key", sa.Text, nullable=False),
        sa.Column("node_key", sa.Text, nullable=False),
        sa.Column("disco_key", sa.Text),
        sa.Column("endpoints", sa.Text, nullable=False),
        sa.Column("host_info", sa.Text, nullable=False),
        sa.Column("capability_version", sa.BigInteger, nullable=False),
        sa.Column("ipv4", sa.Text, unique=True),
        sa.Column("ipv6", sa.Text, unique=True),
        sa.Column("hostname", sa.Text, nullable=False),
        sa.Column("given_name", sa.String(63), nullable=False),
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id")),
        sa.Column("register_method", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("auth_key_id", sa.BigInteger, sa.ForeignKey("pre_auth_keys.id")),
        sa.Column("ephemeral", sa.Boolean, nullable=False),
        sa.Column("last_seen", moment),
        sa.Column("expiry", moment),
        sa.Column("approved_routes", sa.Text, nullable=False),
        sa.Column("created_at", moment, nullable=False),
    )
    op.create_table(
        "id_counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
