"""Audit logs: a chained line for every request, its verification, and what a line needs to be computed again."""
