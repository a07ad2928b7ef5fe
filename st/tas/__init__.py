"""Transformable Architecture Search (Dong & Yang 2019); st/criteria/tas.py says what it does."""
