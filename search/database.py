"""The study of a run in a database, the other choice beside the journal: SQLite or PostgreSQL."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ..errors import MissingExtraError, RunError, first_line
from .study import IN_DATABASE


def name_of(run: Path) -> str:
    """Of the run's study, which no other run has; made up the first time."""
    kept = run / IN_DATABASE
    if not kept.exists():
        kept.write_text(f"{run.resolve().name}-{uuid.uuid4().hex[:12]}\n")
    return kept.read_text().strip()


@contextmanager
def connected(url: str) -> Iterator[RDBStorage]:
    """For the one driver. Raises RunError: out of reach, at first or while it is used."""
    storage = _storage(url, pool_pre_ping=True)  # a server that was started again is no reason to stop
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(f"{_reason(url, error)}; `pared resume` goes on from here") from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def found(run: Path, url: str) -> optuna.Study | None:
    """For reading, also while a driver writes; None where it is not made yet. Raises RunError."""
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite") and not file.is_file():
        raise RunError(f"{run} keeps its study in {file}, which is not on this machine")
    try:
        storage = _storage(url, poolclass=NullPool, skip_table_creation=True)
        return optuna.load_study(study_name=name_of(run), storage=storage)
    except KeyError:
        return None
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(_reason(url, error)) from error


def check(url: str) -> None:
    """Raises RunError where it cannot be reached, MissingExtraError where its driver is not installed."""
    with connected(url):
        pass


def _storage(url: str, skip_table_creation: bool = False, **engine: Any) -> RDBStorage:
    spelled = url.replace("postgresql://", "postgresql+psycopg://")
    try:
        return RDBStorage(spelled, engine_kwargs=engine, skip_table_creation=skip_table_creation)
    except ImportError as error:
        raise MissingExtraError(f"cluster.storage {url}: {error}; pip install 'pared[postgres]'") from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunError(_reason(url, error)) from error


def _reason(url: str, error: Exception) -> str:
    """Of the innermost error, in a line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    told = first_line(error) or type(error).__name__
    return (f"cluster.storage {url}: {told}; allowed: a database that can be reached and written, its "
            "password in PGPASSWORD or ~/.pgpass")
