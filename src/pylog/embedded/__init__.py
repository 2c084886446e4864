"""The engine over logcore: a data directory of this host, with no server and no daemon."""
