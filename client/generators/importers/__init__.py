"""Importers: each turns one kind of model file into a generator pack, without running anything the file holds."""
