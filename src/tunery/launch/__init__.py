"""Puts the processes together: the only place that knows them all."""
