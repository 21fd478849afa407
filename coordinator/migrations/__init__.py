"""The schema's history, run by Alembic at every start (db.py). A released revision is never edited."""
