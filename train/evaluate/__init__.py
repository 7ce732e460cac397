"""A model and test sets -> WER, CER, intervals, confusions, through the served pipeline. Trains nothing."""
