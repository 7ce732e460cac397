"""The fast engine: the adapter merged into the base, rounded to int8, decoded by CTranslate2."""
