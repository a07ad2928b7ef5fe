"""Transformable Architecture Search (Dong & Yang 2019); criteria/tas.py says what it does."""
