"""How Alembic runs the revisions: on the connection, and in the transaction, of `schema.upgrade`.

Belongs here: nothing but that. Does not: revisions (`versions/`), the lock (`operational.py`).
"""

from alembic import context

from ml_patterns.storage.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
