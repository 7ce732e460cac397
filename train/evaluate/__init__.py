"""A model and a manifest -> scores, through the pipeline that is served."""
