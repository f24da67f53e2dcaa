"""The users, in an SQLite file, with Werkzeug's password hashes. It does not use sessions."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flask import Flask, current_app, g
from werkzeug.security import check_password_hash, generate_password_hash

ROLES = ("admin", "member")

DEMO_USERS = (
    ("Ada", "ada@example.com", "admin", "analytical engine"),
    ("Bob", "bob@example.com", "member", "happy little trees"),
)
"""Name, email address, role and password. The sign-in page shows them, because this is a demo."""

NOBODYS_HASH = generate_password_hash(secrets.token_urlsafe())
"""Checked for an unknown user, so that the response time does not show who has an account."""

TABLE = """
    CREATE TABLE IF NOT EXISTS users (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        email TEXT NOT NULL UNIQUE COLLATE NOCASE,
        role TEXT NOT NULL,
        password_hash TEXT NOT NULL
    )
"""


@dataclass(frozen=True, slots=True)
class User:
    id: int
    name: str
    email: str
    role: str


def init_app(app: Flask) -> None:
    """Creates the database with the demo users, unless it exists."""
    path = Path(app.config["DATABASE"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("BEGIN IMMEDIATE")  # several workers may start at once
        db.execute(TABLE)
        if db.execute("SELECT 1 FROM users").fetchone() is None:
            db.executemany(
                "INSERT INTO users (name, email, role, password_hash) VALUES (?, ?, ?, ?)",
                [(*user, generate_password_hash(password)) for *user, password in DEMO_USERS],
            )
    app.teardown_appcontext(_close)


def get(user_id: int) -> User | None:
    query = "SELECT id, name, email, role FROM users WHERE id = ?"
    row = _db().execute(query, [user_id]).fetchone()
    return User(*row) if row else None


def everyone() -> list[User]:
    rows = _db().execute("SELECT id, name, email, role FROM users ORDER BY name")
    return [User(*columns) for columns in rows]


def authenticate(email: str, password: str) -> User | None:
    """The user with this email address and password. None if one of them is wrong."""
    query = "SELECT id, password_hash FROM users WHERE email = ?"
    user_id, password_hash = _db().execute(query, [email.strip()]).fetchone() or (0, NOBODYS_HASH)
    is_right = check_password_hash(password_hash, password)
    return get(user_id) if is_right else None


def is_password_of(user_id: int, password: str) -> bool:
    query = "SELECT password_hash FROM users WHERE id = ?"
    row = _db().execute(query, [user_id]).fetchone()
    return row is not None and check_password_hash(row[0], password)


def set_password(user_id: int, password: str) -> None:
    password_hash = generate_password_hash(password)
    _write("UPDATE users SET password_hash = ? WHERE id = ?", password_hash, user_id)


def set_role(user_id: int, role: str) -> None:
    _write("UPDATE users SET role = ? WHERE id = ?", role, user_id)


def set_email(user_id: int, email: str) -> bool:
    """Returns False, and changes nothing, if another user has this address."""
    try:
        _write("UPDATE users SET email = ? WHERE id = ?", email, user_id)
    except sqlite3.IntegrityError:
        return False
    return True


def _write(statement: str, *values: str | int) -> None:
    with _db() as db:
        db.execute(statement, values)


def _db() -> sqlite3.Connection:
    """The connection of this request, made at first use."""
    if "db" not in g:
        g.db = sqlite3.connect(current_app.config["DATABASE"])
    db: sqlite3.Connection = g.db
    return db


def _close(error: BaseException | None) -> None:
    if "db" in g:
        g.pop("db").close()
