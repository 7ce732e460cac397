"""Score models on test sets through the serving pipeline: WER, CER, intervals, confusions. Trains nothing."""
