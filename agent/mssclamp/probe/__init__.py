"""Probers: the sockets around the search."""
