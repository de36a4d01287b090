"""Adapters that other programs than PEFT wrote, turned into PEFT's form where that is exact."""
