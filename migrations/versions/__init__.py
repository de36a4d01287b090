"""One file a revision. They import Alembic and SQLAlchemy only: our code moves on, they do not."""
