"""Schema migrations; see monitor/store/migrate.py."""
